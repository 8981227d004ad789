"""One volume: an append-only file of shard records behind a superblock of 4 KiB.

Superblock, little-endian:

    offset  bytes  field
         0      4  magic ``6VOL``
         4      2  format version, 1
         6      1  class: 1 small, 2 large
         7      1  zero
         8     16  cluster id; zeros if the node had not joined one
        24     16  node id
        40      4  volume number
        44   4048  zero
      4092      4  CRC-32 (IEEE 802.3) of bytes 0 to 4091

Then records (common/record.py), each a header of 128 bytes, its payload at once after it, and
zeros up to the alignment of the class. Small: payloads under 64 KiB and tombstones, aligned to
8 bytes, through the page cache. Large: the rest, aligned to 4 KiB so that they go by O_DIRECT.
"""

import errno
import logging
import os
import struct
import threading
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path

from common.errors import Corrupt
from common.failpoints import Point, failpoint
from common.framing import LARGE_PAYLOAD_BYTES
from common.record import HEADER_BYTES
from common.shards import Buffer, ShardInfo
from common.wire import MAX_PAYLOAD_BYTES
from shardd.disk import Disk, lacks_descriptor

log = logging.getLogger(__name__)

SUPERBLOCK_BYTES = PAGE_BYTES = 4096
MAGIC = b"6VOL"
FORMAT_VERSION = 1

_FIELDS = struct.Struct("<4sHBx16s16sI4048x")
_CRC = struct.Struct("<I")
_MAX_BUFFERS = 1024  # IOV_MAX of Linux: how many one pwritev takes
_MAX_NUMBER = 1 << 62  # what SQLite can hold in the index; nothing honest comes near
LAST_SEQUENCE = _MAX_NUMBER  # the writer gives no higher one, and no record with one is believed


class VolumeClass(IntEnum):
    SMALL = 1
    LARGE = 2

    @property
    def alignment(self) -> int:
        return 8 if self is _SMALL else PAGE_BYTES

    @classmethod
    def of(cls, payload_bytes: int) -> "VolumeClass":
        return _SMALL if payload_bytes < LARGE_PAYLOAD_BYTES else _LARGE

    def span(self, payload_bytes: int) -> int:
        """What a record with such a payload occupies."""
        alignment = 8 if self is _SMALL else PAGE_BYTES
        return (HEADER_BYTES + payload_bytes + alignment - 1) & -alignment


# As globals: a member looked up on its class takes four times as long, for every shard.
_SMALL, _LARGE = VolumeClass.SMALL, VolumeClass.LARGE


def align_up(size_bytes: int, alignment: int) -> int:
    """`alignment` is a power of two."""
    return (size_bytes + alignment - 1) & -alignment


def is_plausible(info: ShardInfo, sequence: int = 0) -> bool:
    """Whether a header with these states numbers that this store writes."""
    return (
        info.payload_bytes <= MAX_PAYLOAD_BYTES
        and info.segment_bytes <= _MAX_NUMBER
        and sequence <= LAST_SEQUENCE
    )


@dataclass(frozen=True, slots=True)
class Superblock:
    volume_class: VolumeClass
    cluster: bytes
    node: bytes
    number: int

    def pack(self) -> bytes:
        """4096 bytes."""
        fields = _FIELDS.pack(
            MAGIC, FORMAT_VERSION, self.volume_class, self.cluster, self.node, self.number
        )
        return fields + _CRC.pack(zlib.crc32(fields))

    @classmethod
    def unpack(cls, data: bytes) -> "Superblock":
        """Raises Corrupt unless `data` begins with a valid superblock."""
        if len(data) < SUPERBLOCK_BYTES:
            raise Corrupt(f"superblock cut short: {len(data)} bytes")
        fields = data[: _FIELDS.size]
        if _CRC.unpack_from(data, _FIELDS.size)[0] != zlib.crc32(fields):
            raise Corrupt("superblock fails its CRC")
        magic, version, kind, cluster, node, number = _FIELDS.unpack(fields)
        if magic != MAGIC or version != FORMAT_VERSION or kind not in _CLASSES:
            raise Corrupt(f"not a superblock: magic {magic!r}, version {version}, class {kind}")
        return cls(VolumeClass(kind), cluster, node, number)


_CLASSES = frozenset(VolumeClass)


class ShortWrite(OSError):
    """The disk took less than it was given: it is full."""


class SyncFailed(OSError):
    """What was written may be lost, whatever the disk says later."""


class VolumeGone(Exception):
    """The volume was removed: what was live in it is elsewhere, or was deleted. Look again."""


class Volume:
    """An open volume. Reads may come from any thread; writes from one at a time.

    `end` is where the next record goes: only what is durable lies before it.
    """

    def __init__(
        self, disk: Disk, path: Path, number: int, volume_class: VolumeClass, end: int
    ) -> None:
        self.path, self.number, self.volume_class, self.end = path, number, volume_class, end
        self._disk = disk
        self._read_fd = self._open(os.O_RDONLY)
        self._write_fd = -1
        self._lock = threading.Lock()
        self._readers, self._retired = 0, False

    @classmethod
    def create(cls, disk: Disk, folder: Path, superblock: Superblock) -> "Volume":
        """A new volume, itself durable: file and directory are synced. Raises SyncFailed, or
        another OSError of the disk."""
        path = folder / volume_name(superblock.number)
        fd = disk.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL)
        try:
            if disk.pwritev(fd, [superblock.pack()], 0) != SUPERBLOCK_BYTES:
                raise ShortWrite(errno.ENOSPC, f"{path} was written short")
            failpoint(Point.VOLUME_WRITTEN)
            _sync_new(disk, fd, folder)
            failpoint(Point.VOLUME_CREATED)
            return cls(disk, path, superblock.number, superblock.volume_class, SUPERBLOCK_BYTES)
        except OSError:
            disk.unlink(path)
            raise
        finally:
            disk.close(fd)

    def read(self, buffer: bytearray | memoryview, offset: int) -> int:
        """From a large volume, aligned as for O_DIRECT; the bytes that were there. Raises
        VolumeGone, or the disk's OSError."""
        self._enter()
        try:
            return self._disk.preadv(self._read_fd, [buffer], offset)
        finally:
            self._leave()

    def read_nowait(self, buffer: bytearray | memoryview, offset: int) -> int:
        """As Disk.preadv_nowait; raises VolumeGone too."""
        self._enter()
        try:
            return self._disk.preadv_nowait(self._read_fd, [buffer], offset)
        finally:
            self._leave()

    def _enter(self) -> None:
        with self._lock:
            if self._retired:
                raise VolumeGone(str(self.path))
            self._readers += 1

    def _leave(self) -> None:
        with self._lock:
            self._readers -= 1
            last = self._retired and not self._readers
        if last:
            self._disk.close(self._read_fd)

    def retire(self) -> None:
        """Let nobody begin to read, and close the file as soon as nobody reads: a descriptor that
        is closed under a reader might be another file's when it reads."""
        self.seal()
        with self._lock:
            self._retired, unused = True, not self._readers
        if unused:
            self._disk.close(self._read_fd)

    def unseal(self) -> None:
        """Before `write`: as long as only this has failed, there is nothing to cut. Raises the
        disk's OSError."""
        self._writable()

    def write(self, buffers: Sequence[Buffer], size_bytes: int) -> None:
        """Put `size_bytes` after `end`, which stays: `advance` moves it once they are durable.

        Raises ShortWrite or the disk's OSError; then `cut` must follow.
        """
        fd, offset = self._writable(), self.end
        for first in range(0, len(buffers), _MAX_BUFFERS):
            offset += self._pwritev(fd, buffers[first : first + _MAX_BUFFERS], offset)
        if offset != self.end + size_bytes:
            raise ShortWrite(errno.ENOSPC, f"{self.path} took {offset - self.end} of {size_bytes}")

    def _pwritev(self, fd: int, buffers: Sequence[Buffer], offset: int) -> int:
        written = self._disk.pwritev(fd, buffers, offset)
        if written != sum(map(len, buffers)):
            raise ShortWrite(errno.ENOSPC, f"{self.path} was written short")
        return written

    def sync(self) -> None:
        self._disk.fdatasync(self._writable())

    def advance(self, size_bytes: int) -> None:
        self.end += size_bytes

    def cut(self, end: int) -> None:
        """Make the file end at `end`, durably."""
        self._disk.truncate(self._writable(), end)
        self._disk.fdatasync(self._writable())
        self.end = end

    def close(self) -> None:
        self.seal()
        self._disk.close(self._read_fd)

    def seal(self) -> None:
        """No more writing: give back the descriptor for it."""
        if self._write_fd >= 0:
            self._disk.close(self._write_fd)
            self._write_fd = -1

    def _writable(self) -> int:
        if self._write_fd < 0:
            self._write_fd = self._open(os.O_WRONLY)
        return self._write_fd

    def _open(self, flags: int) -> int:
        """Large volumes past the page cache, both ways: a read of 1 MiB that is not cached takes
        0.1 ms of CPU instead of 0.4 to 1.7, and leaves the cache to the small records."""
        if self.volume_class is VolumeClass.LARGE:
            try:
                return self._disk.open(self.path, flags | os.O_DIRECT)
            except OSError as error:
                if error.errno != errno.EINVAL:
                    raise
                log.warning("%s: no O_DIRECT here, using the page cache", self.path)
        return self._disk.open(self.path, flags)


def _sync_new(disk: Disk, fd: int, folder: Path) -> None:
    try:
        disk.fsync(fd)
        failpoint(Point.VOLUME_SYNCED)
        disk.fsync_dir(folder)
    except OSError as error:
        if lacks_descriptor(error):
            raise
        raise SyncFailed(error.errno, f"fsync failed: {error}") from None


def volume_name(number: int) -> str:
    return f"{number:08d}.vol"

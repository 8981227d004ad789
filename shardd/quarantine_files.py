"""`quarantine/`: a file for each record that is out of service but still kept.

    <shard address>.<why>.<Unix time in seconds>

The file holds the record's bytes as they lay in the volume, or nothing if the disk was too full.
"""

import errno
import logging
import os
from collections.abc import Callable
from functools import partial

from common.errors import Corrupt, MalformedId
from common.ids import ShardAddress
from common.record import HEADER_BYTES, RecordKind, unpack_header
from common.shards import Buffer, ShardRecord
from common.upkeep import Quarantined, Why
from shardd.disk import Disk, file_size_bytes, is_bad_place, lacks_descriptor, read_file
from shardd.identity import DataDirectory
from shardd.volume import ShortWrite, SyncFailed

log = logging.getLogger(__name__)


class QuarantineFolder:
    """Methods raise the disk's OSError unless they say otherwise. An error of fsync is final:
    `fail` is called then, which makes the store read-only."""

    def __init__(self, directory: DataDirectory, disk: Disk, fail: Callable[[str], None]) -> None:
        self._directory, self._disk, self._fail = directory, disk, fail
        self._path = directory.quarantine

    def scan(self) -> list[Quarantined]:
        """All that is there."""
        found = []
        for name in self._disk.names(self._path):
            try:
                kept = _parse_name(name, 0)
            except (MalformedId, ValueError):
                log.warning("quarantine: %s is not ours; left alone", name)
                continue
            found.append(kept._replace(size_bytes=self._size_bytes(name)))
        return found

    def newest_s(self) -> float | None:
        """When the latest of all was put here; None if nothing was."""
        return max((kept.at for kept in self.scan()), default=None)

    def _size_bytes(self, name: str) -> int:
        """None, if the file cannot be opened: its name says what is bad all the same."""
        try:
            return file_size_bytes(self._disk, self._path / name)
        except OSError as error:
            if not is_bad_place(error):
                raise
            log.error("quarantine: %s cannot be opened: %s", name, error)
            return 0

    def write(self, kept: Quarantined, record: Buffer) -> None:
        """Durable once `sync` follows; an error leaves nothing. Raises WrongNode too."""
        self._directory.check()
        path = self._path / _name_of(kept)
        fd = self._disk.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        try:
            if self._disk.pwritev(fd, [record], 0) != len(record):
                raise ShortWrite(errno.ENOSPC, f"{path} was written short")
            self._durable(partial(self._disk.fsync, fd))
        except OSError:
            self.unlink(kept)
            raise
        finally:
            self._disk.close(fd)

    def read(self, kept: Quarantined) -> ShardRecord:
        """Raises Corrupt unless it is the shard and intact."""
        try:
            data = read_file(self._disk, self._path / _name_of(kept))
        except OSError as error:
            raise Corrupt(f"{_name_of(kept)} cannot be read: {error}") from None
        kind, _, info = unpack_header(data)
        record = ShardRecord(info, data[HEADER_BYTES : HEADER_BYTES + info.payload_bytes])
        if kind is not RecordKind.SHARD or info.address != kept.address or not record.is_intact():
            raise Corrupt(f"{_name_of(kept)} does not hold the shard")
        return record

    def unlink(self, kept: Quarantined) -> None:
        """Durable once `sync` follows. Never raises: the file is found again at the next start."""
        try:
            self._disk.unlink(self._path / _name_of(kept))
        except FileNotFoundError:
            pass  # nothing but its address was kept
        except OSError as error:
            log.error("quarantine: %s cannot be removed: %s", _name_of(kept), error)

    def sync(self) -> None:
        self._durable(partial(self._disk.fsync_dir, self._path))

    def _durable(self, sync: Callable[[], None]) -> None:
        try:
            sync()
        except OSError as error:
            if lacks_descriptor(error):
                raise
            self._fail(f"what is set aside may be lost: fsync failed: {error}")
            raise SyncFailed(error.errno, f"fsync failed: {error}") from None


def _name_of(kept: Quarantined) -> str:
    return f"{kept.address}.{kept.why}.{kept.at}"


def _parse_name(file_name: str, size_bytes: int) -> Quarantined:
    """Raises MalformedId or ValueError unless it is a name as above."""
    address, why, at = file_name.rsplit(".", 2)
    return Quarantined(ShardAddress.parse(address), Why(why), int(at), size_bytes)

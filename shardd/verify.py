"""Reads and verifies the records of one volume, many at a time, past the page cache.

What the cache holds says nothing about the disk, and what is verified once need not stay in it.
"""

import errno
import mmap
import os
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, Self

from common.errors import Corrupt
from common.hashing import blake3_digest
from common.record import HEADER_BYTES, RecordKind, unpack_header
from common.units import MIB
from shardd.disk import Disk
from shardd.entries import Entry
from shardd.usage import span_of
from shardd.volume import PAGE_BYTES, align_up

_WINDOW_BYTES = 4 * MIB
# What a disk says of a place that it cannot read, while others can be read.
BAD_MEDIUM = (errno.EIO, errno.EILSEQ, errno.EUCLEAN)


class Examined(NamedTuple):
    """A record as it lies on disk, header to padding, and what is wrong with it, '' if nothing.
    What could not be read is zeros."""

    entry: Entry
    record: memoryview
    fault: str

    @property
    def size_bytes(self) -> int:
        return len(self.record)


class RecordFile:
    """A descriptor of its own, so that compaction may remove the volume meanwhile. Used by one
    thread at a time, and only until the next call are the records of the last one valid."""

    def __init__(self, disk: Disk, path: Path) -> None:
        """Raises the disk's OSError: FileNotFoundError if the volume is gone."""
        self._disk = disk
        try:
            self._fd = disk.open(path, os.O_RDONLY | os.O_DIRECT)
        except OSError as error:
            if error.errno != errno.EINVAL:  # no O_DIRECT on this filesystem
                raise
            self._fd = disk.open(path, os.O_RDONLY)
        self._window = memoryview(mmap.mmap(-1, _WINDOW_BYTES))  # anonymous, so page-aligned

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._disk.close(self._fd)

    def examine(self, entries: Sequence[Entry]) -> list[Examined]:
        """As many of the first `entries` as one window takes, at least one; they come by offset.
        Raises the disk's OSError unless it only says that some place cannot be read."""
        start = entries[0].offset & -PAGE_BYTES
        taken = [entry for entry in entries if _end(entry) - start <= _WINDOW_BYTES] or entries[:1]
        size_bytes = align_up(_end(taken[-1]) - start, PAGE_BYTES)
        if size_bytes > len(self._window):
            self._window = memoryview(mmap.mmap(-1, size_bytes))
        unreadable = self._fill(start, size_bytes)
        return [self._examined(entry, start, unreadable) for entry in taken]

    def _examined(self, entry: Entry, start: int, unreadable: Sequence[int]) -> Examined:
        record = self._window[entry.offset - start : _end(entry) - start]
        if any(entry.offset < page + PAGE_BYTES and page < _end(entry) for page in unreadable):
            return Examined(entry, record, "the disk cannot read it")
        return Examined(entry, record, fault_of(entry, record))

    def _fill(self, start: int, size_bytes: int) -> list[int]:
        """Read into the window. The offsets of the pages that cannot be read."""
        place = self._window[:size_bytes]
        try:
            self._read(place, start)
        except OSError as error:
            if error.errno not in BAD_MEDIUM:
                raise
        else:
            return []
        pages = range(0, size_bytes, PAGE_BYTES)
        return [
            start + at for at in pages if not self._read_page(place[at:][:PAGE_BYTES], start + at)
        ]

    def _read_page(self, place: memoryview, offset: int) -> bool:
        try:
            self._read(place, offset)
        except OSError as error:
            if error.errno not in BAD_MEDIUM:
                raise
            place[:] = bytes(len(place))
            return False
        return True

    def _read(self, place: memoryview, offset: int) -> None:
        """Zeros stand for what lies beyond the end of the file."""
        found = self._disk.preadv(self._fd, [place], offset)
        place[found:] = bytes(len(place) - found)


def _end(entry: Entry) -> int:
    return entry.offset + span_of(entry.payload_bytes)


def fault_of(entry: Entry, record: memoryview) -> str:
    """Why `record` is not the one that the index knows there, '' if it is."""
    try:
        kind, sequence, info = unpack_header(record)
    except Corrupt as error:
        return str(error)
    expected = RecordKind.SHARD if entry.live else RecordKind.TOMBSTONE
    if (kind, sequence, info) != (expected, entry.sequence, entry.info):
        return "another record stands there"
    payload = record[HEADER_BYTES : HEADER_BYTES + entry.payload_bytes]
    if blake3_digest(payload) != entry.checksum:
        return "the payload does not match its checksum"
    return ""

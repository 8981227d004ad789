"""Reads and verifies the records of one volume, many at a time."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from common.errors import Corrupt
from common.hashing import blake3_digest
from common.record import HEADER_BYTES, RecordKind, unpack_header
from common.units import MIB
from shardd.direct import DirectFile, aligned
from shardd.disk import Disk
from shardd.entries import UNCERTAIN, Entry
from shardd.usage import span_of
from shardd.volume import PAGE_BYTES, align_up

_WINDOW_BYTES = 4 * MIB


class Examined(NamedTuple):
    """A record as it lies on disk, header to padding, and what is wrong with it, '' if nothing.
    What could not be read is zeros."""

    entry: Entry
    record: memoryview
    fault: str

    @property
    def size_bytes(self) -> int:
        return len(self.record)


class RecordFile(DirectFile):
    """Only until the next call are the records of the last one valid."""

    def __init__(self, disk: Disk, path: Path) -> None:
        """As DirectFile."""
        self._window = memoryview(aligned(_WINDOW_BYTES))  # first: if it fails, nothing is open
        super().__init__(disk, path)

    def examine(self, entries: Sequence[Entry]) -> list[Examined]:
        """As many of the first `entries` as one window takes, at least one; they come by offset.
        Raises the disk's OSError unless it only says that some place cannot be read."""
        start = entries[0].offset & -PAGE_BYTES
        taken = [entry for entry in entries if _end(entry) - start <= _WINDOW_BYTES] or entries[:1]
        size_bytes = align_up(_end(taken[-1]) - start, PAGE_BYTES)
        if size_bytes > len(self._window):
            self._window = memoryview(aligned(size_bytes))
        unreadable = self.read(self._window[:size_bytes], start)
        return [self._examined(entry, start, unreadable) for entry in taken]

    def _examined(self, entry: Entry, start: int, unreadable: Sequence[int]) -> Examined:
        record = self._window[entry.offset - start : _end(entry) - start]
        if any(entry.offset < page + PAGE_BYTES and page < _end(entry) for page in unreadable):
            return Examined(entry, record, "the disk cannot read it")
        return Examined(entry, record, fault_of(entry, record))


def _end(entry: Entry) -> int:
    return entry.offset + span_of(entry.payload_bytes)


def fault_of(entry: Entry, record: memoryview) -> str:
    """Why `record` is not the one that the index knows there, '' if it is."""
    try:
        kind, sequence, info = unpack_header(record)
    except Corrupt as error:
        return str(error)
    expected = RecordKind.SHARD if entry.live else RecordKind.TOMBSTONE
    said = sequence if entry.is_certain else UNCERTAIN
    if (kind, said, info) != (expected, entry.sequence, entry.info):
        return "another record stands there"
    payload = record[HEADER_BYTES : HEADER_BYTES + entry.payload_bytes]
    if blake3_digest(payload) != entry.checksum:
        return "the payload does not match its checksum"
    return ""

"""Reads a volume from end to end: which records are in it, which have rotted, where it ends.

A valid header over a payload that does not match its checksum is rot, or a torn write: logged, and
skipped. Where no valid header stands, the next one is searched for on the alignment of the volume's
class, so one rotten record never hides those behind it.
"""

import asyncio
import logging

from common.errors import Corrupt
from common.hashing import blake3_digest
from common.record import HEADER_BYTES, MAGIC, RecordHeader, RecordKind, unpack_header
from common.units import MIB
from common.wire import MAX_PAYLOAD_BYTES
from shardd.catalog import FLUSH_ENTRIES, Catalog
from shardd.direct import DirectFile, aligned
from shardd.entries import Entry
from shardd.volume import PAGE_BYTES, Volume, VolumeClass, align_up, is_plausible

log = logging.getLogger(__name__)

_STEP_BYTES = 4 * MIB


class Window:
    """A piece of the file in memory, read in large steps; `size_bytes` is the file's. What the
    disk cannot read is zeros: rot, and no reason not to start."""

    def __init__(self, file: DirectFile, volume: Volume) -> None:
        self._file, self._path, self.size_bytes = file, volume.path, volume.end
        self._start, self._data = 0, aligned(PAGE_BYTES)
        self._loaded_bytes = 0

    async def view(self, offset: int, length: int) -> memoryview:
        """`length` bytes from `offset`, fewer at the end of the file."""
        length = min(length, self.size_bytes - offset)
        if offset < self._start or offset + length > self._start + self._loaded_bytes:
            await asyncio.to_thread(self._load, offset, length)
        return memoryview(self._data)[offset - self._start :][:length]

    def _load(self, offset: int, length: int) -> None:
        self._start = offset & -PAGE_BYTES
        step = min(max(offset + length - self._start, _STEP_BYTES), self.size_bytes - self._start)
        wanted = align_up(step, PAGE_BYTES)
        self._data, self._loaded_bytes = aligned(wanted), wanted
        for bad in self._file.read(memoryview(self._data), self._start):
            log.error("%s: cannot be read at %d", self._path, bad)

    async def find(self, needle: bytes, offset: int) -> int:
        """Where `needle` next starts, from `offset` on, else the size of the file."""
        while offset + len(needle) <= self.size_bytes:
            await self.view(offset, len(needle))
            at = self._data.find(needle, offset - self._start)
            if at >= 0:
                return self._start + at
            offset = self._start + self._loaded_bytes - len(needle) + 1
        return self.size_bytes


class Scan:
    """One pass over a volume, into the index."""

    def __init__(self, volume: Volume, window: Window, catalog: Catalog) -> None:
        self._volume, self._window, self._catalog = volume, window, catalog
        self._is_large = volume.volume_class is VolumeClass.LARGE
        self.rotten: list[Entry] = []
        self.has_hole = False  # something without a valid header lies between valid records
        self._entries: list[Entry] = []
        self._next_sequence = 0
        self._doubtful_until = 0
        self._first_bad = window.size_bytes

    async def run(self, start: int) -> int:
        """Where the last valid record ends, or `start`."""
        offset = end = start
        while offset < self._window.size_bytes:
            header = await self._header(offset)
            if header is None:
                offset = await self._resync(offset)
                continue
            doubtful = offset < self._doubtful_until
            payload_end = offset + HEADER_BYTES + header.info.payload_bytes
            fits = payload_end <= self._window.size_bytes
            after = offset + self._volume.volume_class.span(header.info.payload_bytes)
            if fits and await self._payload_matches(offset, header):
                self._take(header, offset)
                offset = end = after
                await self._hand_over(end, FLUSH_ENTRIES)
            elif doubtful:
                # It may stand in a payload: then its length is not to be believed either.
                offset = await self._resync(offset)
            elif not fits:
                break  # torn; what looks like records in half a payload is content, not records
            else:
                self._note_rotten(header, offset)
                offset = after
        await self._hand_over(end, 1)
        self.has_hole = self._first_bad < end
        return end

    def _note_rotten(self, header: RecordHeader, offset: int) -> None:
        if header.kind is RecordKind.SHARD:
            self.rotten.append(Entry.of(header, self._volume.number, offset))

    def _take(self, header: RecordHeader, offset: int) -> None:
        self._next_sequence = max(self._next_sequence, header.sequence + 1)
        if header.kind is RecordKind.TOMBSTONE and offset < self._doubtful_until:
            log.warning("%s: not trusting the tombstone at %d", self._volume.path, offset)
            return
        self._entries.append(Entry.of(header, self._volume.number, offset))

    async def _header(self, offset: int) -> RecordHeader | None:
        try:
            header = unpack_header(await self._window.view(offset, HEADER_BYTES))
        except Corrupt:
            return None
        # What belongs into small volumes could not be read from a large one: it is a stray copy.
        stray = self._is_large and VolumeClass.of(header.info.payload_bytes) is VolumeClass.SMALL
        return header if is_plausible(header.info, header.sequence) and not stray else None

    async def _payload_matches(self, offset: int, header: RecordHeader) -> bool:
        info = header.info
        payload = await self._window.view(offset + HEADER_BYTES, info.payload_bytes)
        if len(payload) == info.payload_bytes and blake3_digest(payload) == info.checksum:
            return True
        log.error("%s: bad payload of %s at %d", self._volume.path, info.address, offset)
        return False

    async def _resync(self, bad: int) -> int:
        """The offset of the next valid header after the invalid one at `bad`, else the file's end.

        What stands there may be the payload of the record whose header is gone, and a payload may
        be somebody's copy of a volume. A shard found in it does no harm, as it proves itself by
        its checksum; a tombstone would bury a good shard. So tombstones are not believed for the
        length of the largest payload: at worst that leaves an orphan, which is swept.
        """
        alignment = self._volume.volume_class.alignment
        self._first_bad = min(self._first_bad, bad)
        self._doubtful_until = bad + HEADER_BYTES + MAX_PAYLOAD_BYTES
        offset = await self._window.find(MAGIC, bad + 1)
        while offset < self._window.size_bytes:
            if offset % alignment == 0 and await self._header(offset) is not None:
                break
            offset = await self._window.find(MAGIC, offset + 1)
        log.error("%s: no record from %d to %d", self._volume.path, bad, offset)
        return offset

    async def _hand_over(self, scanned: int, least: int) -> None:
        if len(self._entries) >= least:
            entries, self._entries = self._entries, []
            self._catalog.apply(entries, {self._volume.number: scanned}, self._next_sequence)
            await asyncio.to_thread(self._catalog.flush)

"""Reads a volume from end to end: which records are in it, which have rotted, where it ends.

A valid header over a payload that does not match its checksum is rot, or a torn write: logged, and
skipped. Where no valid header stands, the next one is searched for on the alignment of the volume's
class, so one rotten record never hides those behind it.

What is found there is uncertain: it may be the payload of the record whose header is gone, and a
payload may be somebody's copy of a volume, or a trap. A tombstone in it is passed over: at worst
that leaves an orphan, which is swept. A shard that matches its checksum is kept apart, for
recovery to compare with all that is certain; its sequence number is not gone on from.
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
        self._unreadable: set[int] = set()  # pages, as far as they were come across

    def is_unread(self, start: int, end: int) -> bool:
        """Whether some of it could not be read."""
        return any(page < end and start < page + PAGE_BYTES for page in self._unreadable)

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
            self._unreadable.add(bad)

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
        self.uncertain: list[Entry] = []  # shards, with the sequence numbers that they state
        # Something without a valid header lies between valid records, or what follows the last one
        # could not be read. Of what could not be read nobody knows which records are in it: they
        # may be read one day. `has_unread` also tells of such holes, `has_hole` of such tails.
        self.has_hole = self.has_unread = self.has_unread_tail = False
        self._entries: list[Entry] = []
        self._next_sequence = 0
        self._uncertain_until = 0
        self._first_bad = self._first_rotten = window.size_bytes

    async def run(self, start: int) -> int:
        """Where the last valid record ends, or `start`. What is certain goes to the catalog, with
        checkpoints up to the first hole or rotten record."""
        offset = end = start
        while offset < self._window.size_bytes:
            header = await self._header(offset)
            if header is None:
                offset = await self._resync(offset)
                continue
            payload_end = offset + HEADER_BYTES + header.info.payload_bytes
            fits = payload_end <= self._window.size_bytes
            after = offset + self._volume.volume_class.span(header.info.payload_bytes)
            if fits and await self._payload_matches(offset, header):
                self._take(header, offset)
                offset = end = after
                await self._hand_over(end, FLUSH_ENTRIES)
            elif offset < self._uncertain_until:
                # It may stand in a payload: then its length is not to be believed either.
                offset = await self._resync(offset)
            elif not fits:
                break  # torn; what looks like records in half a payload is content, not records
            else:
                self._note_rotten(header, offset)
                offset = after
        await self._hand_over(end, 1)
        self.has_unread_tail = self._window.is_unread(end, self._window.size_bytes)
        self.has_unread |= self.has_unread_tail
        self.has_hole = self._first_bad < end or self.has_unread_tail
        return end

    def _note_rotten(self, header: RecordHeader, offset: int) -> None:
        self._first_rotten = min(self._first_rotten, offset)
        if header.kind is RecordKind.SHARD:
            self.rotten.append(Entry.of(header, self._volume.number, offset))

    def _take(self, header: RecordHeader, offset: int) -> None:
        entry = Entry.of(header, self._volume.number, offset)
        if offset >= self._uncertain_until:
            self._next_sequence = max(self._next_sequence, header.sequence + 1)
            self._entries.append(entry)
        elif entry.live:
            self.uncertain.append(entry)
        else:
            log.warning("%s: not trusting the tombstone at %d", self._volume.path, offset)

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
        From there on nothing is certain for the length of the largest payload: another header
        that is gone may stand right before."""
        alignment = self._volume.volume_class.alignment
        self._first_bad = min(self._first_bad, bad)
        offset = await self._window.find(MAGIC, bad + 1)
        while offset < self._window.size_bytes:
            if offset % alignment == 0 and await self._header(offset) is not None:
                break
            offset = await self._window.find(MAGIC, offset + 1)
        log.error("%s: no record from %d to %d", self._volume.path, bad, offset)
        self.has_unread |= self._window.is_unread(bad, offset)
        self._uncertain_until = offset + HEADER_BYTES + MAX_PAYLOAD_BYTES
        return offset

    async def _hand_over(self, scanned: int, least: int) -> None:
        if len(self._entries) >= least:
            entries, self._entries = self._entries, []
            # What is uncertain comes to the catalog last, and what is rotten on the list of bad
            # shards: until then it is to be found again.
            known = min(scanned, self._first_bad, self._first_rotten)
            self._catalog.apply(entries, {self._volume.number: known}, self._next_sequence)
            await asyncio.to_thread(self._catalog.flush)

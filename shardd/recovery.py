"""Brings the index up to what the volumes hold, and cuts torn tails. Runs before anything else.

Each volume is read from its checkpoint on. A valid record is indexed. A valid header over a
payload that does not match its checksum is rot (or a torn write): logged, not indexed, skipped.
Where no valid header stands, the next one is searched for on the alignment of the volume's class,
so one rotten record never hides those behind it. What follows the last valid record is cut.
"""

import asyncio
import logging
from dataclasses import dataclass
from pathlib import Path

import aiofiles
from aiofiles.threadpool.binary import AsyncBufferedReader

from common.errors import Corrupt
from common.hashing import blake3_digest
from common.record import HEADER_BYTES, MAGIC, RecordHeader, unpack_header
from common.units import MIB
from shardd.index import FLUSH_ENTRIES, Entry, Index, IndexDamaged, remove_index
from shardd.volume import SUPERBLOCK_BYTES, Volume, align_up, is_plausible
from shardd.volumes import VolumeSet

log = logging.getLogger(__name__)

_STEP_BYTES = 4 * MIB


async def recover(volumes: VolumeSet, index_path: Path, node_id: str) -> Index:
    """The index, complete. Every volume's `end` is final then."""
    try:
        index = Index(index_path, node_id)
    except IndexDamaged as error:
        log.warning("%s; rebuilding it from the volumes", error)
        index = _fresh(index_path, node_id)
    if not _agrees(index, volumes):
        log.warning("%s does not fit the volumes; rebuilding it from them", index_path)
        index.close()
        index = _fresh(index_path, node_id)
    try:
        checkpoints = index.checkpoints()
        for number, volume in sorted(volumes.by_number.items()):
            await _recover_volume(volume, checkpoints.get(number, SUPERBLOCK_BYTES), index)
        await asyncio.to_thread(index.settle)
    except BaseException:
        index.close()
        raise
    return index


def _fresh(path: Path, node_id: str) -> Index:
    remove_index(path)
    return Index(path, node_id)


def _agrees(index: Index, volumes: VolumeSet) -> bool:
    """Whether every volume that the index knows is there and at least as long as it knows it."""
    for number, scanned_bytes in index.checkpoints().items():
        volume = volumes.by_number.get(number)
        if volume is None or volume.end < scanned_bytes:
            return False
    return True


async def _recover_volume(volume: Volume, start: int, index: Index) -> None:
    """`volume.end` is the size of its file until here."""
    if start < volume.end:
        log.info("%s: reading %d bytes", volume.path, volume.end - start)
        async with aiofiles.open(volume.path, "rb") as file:
            end = await _Scan(volume, _Window(file, volume.end), index).run(start)
    else:
        end = start
    if end != volume.end:
        # A negative cut is a record whole but for its padding.
        log.warning("%s: cutting %d bytes after the last record", volume.path, volume.end - end)
        volume.cut(end)
    index.apply([], {volume.number: end}, 0)


@dataclass(slots=True)
class _Window:
    """A piece of the file in memory, read in large steps; `size_bytes` is the file's."""

    file: AsyncBufferedReader
    size_bytes: int
    start: int = 0
    data: bytes = b""

    async def view(self, offset: int, length: int) -> memoryview:
        """`length` bytes from `offset`, fewer at the end of the file."""
        length = min(length, self.size_bytes - offset)
        if offset < self.start or offset + length > self.start + len(self.data):
            await self.file.seek(offset)
            self.start, self.data = offset, await self.file.read(max(length, _STEP_BYTES))
        return memoryview(self.data)[offset - self.start :][:length]


class _Scan:
    """One pass over a volume, into the index."""

    def __init__(self, volume: Volume, window: _Window, index: Index) -> None:
        self._volume, self._window, self._index = volume, window, index
        self._entries: list[Entry] = []
        self._next_sequence = 0

    async def run(self, start: int) -> int:
        """Where the last valid record ends, or `start`."""
        volume_class = self._volume.volume_class
        offset = end = start
        while offset < self._window.size_bytes:
            header = await self._header(offset)
            if header is None:
                found = await self._search(offset + volume_class.alignment)
                log.warning("%s: no record from %d to %d", self._volume.path, offset, found)
                offset = found
                continue
            self._next_sequence = max(self._next_sequence, header.sequence + 1)
            after = offset + volume_class.span(header.info.payload_bytes)
            if await self._payload_matches(offset, header):
                self._entries.append(Entry.of(header, self._volume.number, offset))
                end = after
                await self._hand_over(end, FLUSH_ENTRIES)
            elif not await self._payload_fits(offset, header):
                after = offset + volume_class.alignment  # torn: nothing to step over
            offset = after
        await self._hand_over(end, 1)
        return end

    async def _header(self, offset: int) -> RecordHeader | None:
        try:
            header = unpack_header(await self._window.view(offset, HEADER_BYTES))
        except Corrupt:
            return None
        return header if is_plausible(header) else None

    async def _payload_fits(self, offset: int, header: RecordHeader) -> bool:
        return offset + HEADER_BYTES + header.info.payload_bytes <= self._window.size_bytes

    async def _payload_matches(self, offset: int, header: RecordHeader) -> bool:
        info = header.info
        payload = await self._window.view(offset + HEADER_BYTES, info.payload_bytes)
        if len(payload) == info.payload_bytes and blake3_digest(payload) == info.checksum:
            return True
        log.error("%s: bad payload of %s at %d", self._volume.path, info.address, offset)
        return False

    async def _search(self, offset: int) -> int:
        """The next offset on the alignment that may hold a header, else the end of the file."""
        alignment = self._volume.volume_class.alignment
        while offset < self._window.size_bytes:
            view = await self._window.view(offset, _STEP_BYTES)
            at = bytes(view).find(MAGIC)
            if at < 0:
                offset = align_up(offset + max(1, len(view) - len(MAGIC)), alignment)
                continue
            found = offset + at
            if found % alignment == 0:
                return found
            offset = align_up(found, alignment)
        return self._window.size_bytes

    async def _hand_over(self, scanned: int, least: int) -> None:
        if len(self._entries) >= least:
            entries, self._entries = self._entries, []
            self._index.apply(entries, {self._volume.number: scanned}, self._next_sequence)
            await asyncio.to_thread(self._index.flush)

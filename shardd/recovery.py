"""Brings the index up to what the volumes hold, and cuts torn tails. Runs before anything else.

Each volume is read from its checkpoint on. A valid record is indexed. A valid header over a
payload that does not match its checksum is rot, or a torn write: logged, not indexed, skipped.
Where no valid header stands, the next one is searched for on the alignment of the volume's class,
so one rotten record never hides those behind it. What follows the last valid record is cut.
"""

import asyncio
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from common.errors import Corrupt, Unavailable
from common.hashing import blake3_digest
from common.record import HEADER_BYTES, MAGIC, RecordHeader, RecordKind, unpack_header
from common.units import MIB
from common.wire import MAX_PAYLOAD_BYTES
from shardd.catalog import FLUSH_ENTRIES, Catalog
from shardd.direct import DirectFile, aligned
from shardd.disk import Disk
from shardd.entries import Entry
from shardd.index import IndexDamaged, remove_index
from shardd.usage import Standing
from shardd.volume import PAGE_BYTES, SUPERBLOCK_BYTES, Volume, align_up, is_plausible
from shardd.volumes import VolumeSet

log = logging.getLogger(__name__)

_STEP_BYTES = 4 * MIB


class Recovered(NamedTuple):
    """`rotten` are shards whose latest record does not match its checksum: not in the catalog."""

    catalog: Catalog
    rotten: list[Entry]


async def recover(disk: Disk, volumes: VolumeSet, index_path: Path, node_id: str) -> Recovered:
    """The catalog, complete. Every volume's `end` is final then."""
    try:
        return await _complete(disk, volumes, Catalog(index_path, node_id))
    except (IndexDamaged, Unavailable) as error:
        log.warning("%s; rebuilding it from the volumes", error)
    remove_index(index_path)
    return await _complete(disk, volumes, Catalog(index_path, node_id))


async def _complete(disk: Disk, volumes: VolumeSet, catalog: Catalog) -> Recovered:
    rotten: list[Entry] = []
    try:
        checkpoints = catalog.checkpoints()
        _check_fit(checkpoints, volumes)
        for number, volume in sorted(volumes.by_number.items()):
            start = checkpoints.get(number, SUPERBLOCK_BYTES)
            rotten += await _recover_volume(disk, volume, start, catalog)
        await asyncio.to_thread(catalog.settle)
        standing = catalog.standing([entry.key for entry in rotten])
    except BaseException:
        catalog.close()
        raise
    return Recovered(catalog, [bad for bad in rotten if _is_lost(bad, standing.get(bad.key))])


def _is_lost(rotten: Entry, standing: Standing | None) -> bool:
    """Whether nothing makes up for the record: no good one, and no later tombstone."""
    return standing is None or (not standing.live and standing.sequence < rotten.sequence)


def _check_fit(checkpoints: Mapping[int, int], volumes: VolumeSet) -> None:
    """Raises IndexDamaged unless every volume is there and as long as the index knows it."""
    for number, scanned_bytes in checkpoints.items():
        volume = volumes.by_number.get(number)
        if volume is None or volume.end < scanned_bytes:
            raise IndexDamaged(f"the index knows more of volume {number} than there is")


async def _recover_volume(disk: Disk, volume: Volume, start: int, catalog: Catalog) -> list[Entry]:
    """What is rotten. `volume.end` is the size of its file until here."""
    rotten: list[Entry] = []
    if start < volume.end:
        log.info("%s: reading %d bytes", volume.path, volume.end - start)
        with DirectFile(disk, volume.path) as file:
            scan = _Scan(volume, _Window(file, volume), catalog)
            end = await scan.run(start)
        rotten = [entry for entry in scan.rotten if entry.offset < end]  # the rest was torn
    else:
        end = start
    if end != volume.end:
        # A negative cut is a record whole but for its padding.
        log.warning("%s: cutting %d bytes after the last record", volume.path, volume.end - end)
        volume.cut(end)
    catalog.apply([], {volume.number: end}, 0)
    return rotten


class _Window:
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
        wanted = align_up(max(offset + length - self._start, _STEP_BYTES), PAGE_BYTES)
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


class _Scan:
    """One pass over a volume, into the index."""

    def __init__(self, volume: Volume, window: _Window, catalog: Catalog) -> None:
        self._volume, self._window, self._catalog = volume, window, catalog
        self.rotten: list[Entry] = []
        self._entries: list[Entry] = []
        self._next_sequence = 0
        self._doubtful_until = 0

    async def run(self, start: int) -> int:
        """Where the last valid record ends, or `start`."""
        offset = end = start
        while offset < self._window.size_bytes:
            header = await self._header(offset)
            if header is None:
                offset = await self._resync(offset)
                continue
            payload_end = offset + HEADER_BYTES + header.info.payload_bytes
            if payload_end > self._window.size_bytes:
                break  # torn; what looks like records in half a payload is content, not records
            after = offset + self._volume.volume_class.span(header.info.payload_bytes)
            if await self._payload_matches(offset, header):
                self._take(header, offset)
                end = after
                await self._hand_over(end, FLUSH_ENTRIES)
            elif header.kind is RecordKind.SHARD and offset >= self._doubtful_until:
                self.rotten.append(Entry.of(header, self._volume.number, offset))
            offset = after
        await self._hand_over(end, 1)
        return end

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
        return header if is_plausible(header.info, header.sequence) else None

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

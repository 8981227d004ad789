"""Brings the index up to what the volumes hold, and cuts torn tails. Runs before anything else.

Each volume is read from its checkpoint on (scan.py), and what follows the last valid record is cut,
unless the disk could not read it: then it stays, and is read again at every start. Before a
volume is read it is synced: a process that was killed may have left records that so far only the
page cache has, and what is found here is served, and built upon.

What stands behind an unreadable header is judged last, against all that is certain (uncertain.py).
"""

import asyncio
import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

from common.errors import Unavailable
from common.failpoints import Point, failpoint
from shardd.catalog import Catalog
from shardd.direct import DirectFile
from shardd.disk import Disk
from shardd.entries import Entry
from shardd.index import MEMORY, IndexDamaged, remove_index
from shardd.index_seal import break_seal
from shardd.scan import Scan, Window
from shardd.uncertain import judge
from shardd.usage import Standing
from shardd.volume import SUPERBLOCK_BYTES, Volume
from shardd.volumes import VolumeSet, is_full

log = logging.getLogger(__name__)

# More numbers than a node gives in its life: those behind a hole, which are not believed, are less,
# should what is unreadable now be read again one day.
_LEAP = 1 << 40


class Recovered(NamedTuple):
    """`lost` are shards that are not in the catalog although they should be: the latest record does
    not match its checksum, or may be nothing but bytes of another one's payload. `checkpoints` are
    for the catalog once these are on the list of bad shards: a crash before must find them again.
    `failure` is why nothing may be written, if so: the disk could not sync."""

    catalog: Catalog
    lost: list[Entry]
    checkpoints: dict[int, int]
    failure: str | None


async def recover(disk: Disk, volumes: VolumeSet, index_path: Path, node_id: str) -> Recovered:
    """The catalog, complete. Every volume's `end` is final then."""
    try:
        is_sound = await asyncio.to_thread(break_seal, index_path)
        return await _Recovery(disk, volumes, Catalog(index_path, node_id)).run(is_sound)
    except (IndexDamaged, Unavailable) as error:
        log.warning("%s; rebuilding it from the volumes", error)
    try:
        remove_index(index_path)
        return await _Recovery(disk, volumes, Catalog(index_path, node_id)).run(is_sound=True)
    except (IndexDamaged, Unavailable, OSError) as error:
        log.error("%s; the index is kept in memory, and nothing is written", error)
        volumes.failure = volumes.failure or f"the index cannot be written: {error}"
    return await _Recovery(disk, volumes, Catalog(MEMORY, node_id)).run(is_sound=True)


class _Recovery:
    """Used once."""

    def __init__(self, disk: Disk, volumes: VolumeSet, catalog: Catalog) -> None:
        self._disk, self._volumes, self._catalog = disk, volumes, catalog
        self._rotten: list[Entry] = []
        self._uncertain: list[Entry] = []
        self._checkpoints: dict[int, int] = {}  # behind holes and rotten records
        self._has_hole = False

    async def run(self, is_sound: bool) -> Recovered:
        """`is_sound`: the last process has closed everything, and the index need not be checked.
        Closes the catalog if it raises."""
        try:
            if not is_sound:
                await asyncio.to_thread(self._catalog.check)
            checkpoints = self._catalog.checkpoints()
            self._check_fit(checkpoints)
            self._volumes.unread.clear()  # an earlier attempt read with another index
            self._must(self._volumes.sync_names)
            for number, volume in sorted(self._volumes.by_number.items()):
                known = checkpoints.get(number)
                if known != volume.end or not is_sound:
                    await self._recover(volume, known)
            await asyncio.to_thread(self._catalog.settle)
            lost = await asyncio.to_thread(self._judge)
        except BaseException:
            self._catalog.close()
            raise
        return Recovered(self._catalog, lost, self._checkpoints, self._volumes.failure)

    def _judge(self) -> list[Entry]:
        """Bring what is uncertain to the catalog, as far as it contradicts nothing. The shards
        that are lost."""
        keys = {entry.key for entry in (*self._uncertain, *self._rotten)}
        verdict = judge(self._uncertain, self._rotten, self._catalog.standing(list(keys)))
        leap = self._catalog.next_sequence + _LEAP if self._has_hole else 0
        self._catalog.apply(verdict.taken, {}, leap)
        self._catalog.bury((bad.key, bad.volume) for bad in self._rotten)
        self._catalog.settle()
        standing = self._catalog.standing([entry.key for entry in self._rotten])
        rotten = [bad for bad in self._rotten if _is_lost(bad, standing.get(bad.key))]
        return rotten + verdict.lost

    def _check_fit(self, checkpoints: Mapping[int, int]) -> None:
        """Raises IndexDamaged unless every volume is there and as long as the index knows it. Of
        one that cannot be opened, the index is all there is."""
        for number in checkpoints.keys() - self._volumes.unopened:
            scanned_bytes = checkpoints[number]
            volume = self._volumes.by_number.get(number)
            if volume is None or volume.end < scanned_bytes:
                raise IndexDamaged(f"the index knows more of volume {number} than there is")

    def _must(self, make_durable: Callable[[], None]) -> None:
        """If the disk fails at that, nothing may be written to it; but what it holds is served."""
        try:
            make_durable()
        except OSError as error:
            self._fail(error)

    def _fail(self, error: OSError) -> None:
        """It outlives this attempt: the next one, with another index, would sync without an error
        what may have been dropped."""
        log.error("recovery: %s", error)
        self._volumes.failure = self._volumes.failure or f"recovery failed: {error}"

    async def _recover(self, volume: Volume, checkpoint: int | None) -> None:
        """`volume.end` is the size of its file until here. It is synced even if the index knows all
        of it: a process that was killed may have cut it, which a power loss could undo."""
        start = end = checkpoint or SUPERBLOCK_BYTES
        scan: Scan | None = None
        with DirectFile(self._disk, volume.path) as file:
            self._must(file.sync)
            failpoint(Point.TAIL_SYNCED)
            if start < volume.end:
                log.info("%s: reading %d bytes", volume.path, volume.end - start)
                scan = Scan(volume, Window(file, volume), self._catalog)
                end = await scan.run(start)
        if scan is not None and scan.has_unread_tail:
            log.error("%s: what follows %d cannot all be read", volume.path, end)
        elif end != volume.end:
            # A negative cut is a record whole but for its padding.
            log.warning("%s: cutting %d bytes after the last record", volume.path, volume.end - end)
            self._must(lambda: volume.cut(end))
            failpoint(Point.TAIL_CUT)
        if scan is not None and (scan.has_hole or scan.rotten):
            self._note_flaws(scan, volume, end)
        else:
            self._catalog.apply([], {volume.number: end}, 0)

    def _note_flaws(self, scan: Scan, volume: Volume, end: int) -> None:
        kept = volume.end if scan.has_unread_tail else end  # what is behind that was torn
        self._rotten += [bad for bad in scan.rotten if bad.offset < kept]
        self._uncertain += scan.uncertain
        self._has_hole |= scan.has_hole
        if scan.has_unread:
            self._volumes.unread.add(volume.number)
        # Or the next start must see the hole again, or try to read it.
        is_closed = not scan.has_hole or self._roll(volume)
        if is_closed and not scan.has_unread:
            self._checkpoints[volume.number] = end

    def _roll(self, volume: Volume) -> bool:
        """Behind a hole nothing is certain (scan.py), so no more may be written there. Whether it
        is sure that a later process does not either."""
        try:
            self._volumes.roll(volume)
            return True
        except OSError as error:
            if not is_full(error):
                self._fail(error)
            log.error("recovery: there is no volume yet in place of %s: %s", volume.path, error)
            return False


def _is_lost(rotten: Entry, standing: Standing | None) -> bool:
    """Whether nothing makes up for the record: no good one, and no later tombstone."""
    return standing is None or (not standing.live and standing.sequence < rotten.sequence)

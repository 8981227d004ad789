"""Gives back the room of dead records: copies what is live in a volume, then deletes the volume.

Copies go through the writer thread like anything else, into the volumes that are open, and keep
their sequence numbers, unless these are not certain. The order at the end makes every crash
harmless: first all copies are durable and known to the index, then the index forgets the volume,
durably, and only then the file goes. A crash before the last step leaves both copies; recovery
counts one of them as dead.

A tombstone is copied only while another volume holds what it buries (usage.py). A volume that could
not all be read at the start is left alone: another start may find records in it, of which nothing
is known now, nor which tombstones bury them, so all of these are kept meanwhile.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Sequence
from functools import partial

from common.errors import SixfoldError, StoreReadOnly, Unavailable
from common.failpoints import Point, failpoint
from shardd.choice import Candidate, Situation, choose
from shardd.disk import lacks_descriptor
from shardd.entries import Entry
from shardd.group import Move, WriteJob
from shardd.parts import StoreParts, to_the_end
from shardd.throttle import Throttle
from shardd.usage import TOMBSTONE_BYTES, VolumeUse
from shardd.verify import Examined, RecordFile
from shardd.volume import SUPERBLOCK_BYTES, Volume

_PAGE_ENTRIES = 4096
# One in so many bytes of the reserve: without it the disk would be full to the last byte when a
# volume has just been copied, and neither could the index note that, nor anything be deleted.
_NOT_FOR_COPIES = 8
_NOTHING = VolumeUse()

Condemn = Callable[[Sequence[Examined]], Awaitable[None]]


class Compactor:
    """One volume at a time, whoever asks."""

    def __init__(
        self,
        parts: StoreParts,
        condemn: Condemn,
        throttle: Throttle,
        dead_part: float,
        tight_bytes: int,
    ) -> None:
        """A volume is compacted when more than `dead_part` of it is dead, or when less than
        `tight_bytes` may still be written and anything is. `condemn` takes rotten records out of
        service."""
        self._parts, self._condemn, self._throttle = parts, condemn, throttle
        self._dead_part, self._tight_bytes = dead_part, tight_bytes
        self._running = asyncio.Lock()
        self._removed = 0  # how many volumes, so far
        self._forgotten: int | None = None  # by the index, while its file may still be there
        self._needed: dict[int, tuple[int, VolumeUse, int]] = {}

    async def compact_once(self) -> int:
        """Compact the emptiest volume that is worth it. The bytes given back, 0 if there is none.

        Raises what the writer or the index refuse with; then all is as before, but for copies.
        """
        async with self._running:
            if (forgotten := self._forgotten) is not None:
                await to_the_end(lambda: self._drop(forgotten))
            chosen = await to_the_end(self._choose)
            return await self._compact(chosen) if chosen is not None else 0

    def _choose(self) -> Candidate | None:
        use = self._parts.catalog.use()
        known = list(self._parts.volumes.by_number.values())
        volumes = [each for each in known if each.number not in self._parts.volumes.unread]
        room_bytes = self._parts.volumes.room_bytes()
        tight = room_bytes < self._tight_bytes
        copies_bytes = room_bytes - self._parts.reserve_bytes // _NOT_FOR_COPIES
        candidates = (self._candidate(each, use.get(each.number, _NOTHING)) for each in volumes)
        return choose(candidates, Situation(self._dead_part, tight, copies_bytes))

    def _candidate(self, volume: Volume, use: VolumeUse) -> Candidate:
        kept_bytes = use.live_bytes + TOMBSTONE_BYTES * self._count_needed(volume.number, use)
        size_bytes = volume.end - SUPERBLOCK_BYTES
        return Candidate(volume.number, size_bytes, kept_bytes, self._parts.volumes.is_open(volume))

    def _count_needed(self, number: int, use: VolumeUse) -> int:
        """How many tombstones of the volume are needed: counted anew only after a change."""
        if not use.tombstones or self._parts.volumes.unread:
            return use.tombstones
        removed, known_use, count = self._needed.get(number, (-1, use, 0))
        if (removed, known_use) != (self._removed, use):
            count = self._parts.catalog.count_needed_tombstones(number)
            self._needed[number] = self._removed, use, count
        return count

    async def _compact(self, chosen: Candidate) -> int:
        parts, volume = self._parts, self._parts.volumes.by_number[chosen.number]
        await parts.write(WriteJob(seal=volume.number))
        failpoint(Point.COMPACT_SEALED)
        await self._move_all(volume, parts.catalog.live_in)
        all_needed, catalog = bool(parts.volumes.unread), parts.catalog
        buries = catalog.tombstones_in if all_needed else catalog.needed_tombstones_in
        await self._move_all(volume, buries)
        failpoint(Point.COMPACT_COPIED)
        await to_the_end(lambda: self._drop(volume.number))
        return volume.end

    async def _move_all(self, volume: Volume, rows: Callable[[int, int, int], list[Entry]]) -> None:
        after = 0
        await to_the_end(self._parts.catalog.flush)
        with RecordFile(self._parts.disk, volume.path) as file:
            while page := await to_the_end(partial(rows, volume.number, after, _PAGE_ENTRIES)):
                after = page[-1].offset
                while page:
                    page = page[await self._move_some(file, page) :]

    async def _move_some(self, file: RecordFile, entries: Sequence[Entry]) -> int:
        """How many of the first `entries` were dealt with."""
        examined = await to_the_end(lambda: file.examine(entries))
        await self._throttle.spend(sum(each.size_bytes for each in examined))
        await self._parts.write(WriteJob(moves=list(_moves_of(examined))))
        failpoint(Point.COMPACT_MOVED)
        if rotten := [each for each in examined if each.fault and each.entry.live]:
            await self._condemn(rotten)
        return len(examined)

    def _drop(self, number: int) -> None:
        """Raises StoreReadOnly if the index has forgotten a file that may still be there: nothing
        may be built on that. Or Unavailable, if it only cannot be removed just now: that comes
        first the next time."""
        self._parts.catalog.forget(number)
        self._forgotten = number
        try:
            failpoint(Point.COMPACT_FORGOTTEN)
            self._parts.volumes.remove(number)
            failpoint(Point.COMPACT_REMOVED)
            self._forgotten, self._removed = None, self._removed + 1
            self._needed.pop(number, None)
        except Unavailable:
            raise
        except (OSError, SixfoldError) as error:
            if isinstance(error, OSError) and lacks_descriptor(error):
                raise Unavailable(f"volume {number} cannot be removed now: {error}") from None
            reason = f"volume {number} could not be removed: {error}"
            self._parts.fail(reason)
            raise StoreReadOnly(reason) from None


def _moves_of(examined: Sequence[Examined]) -> Iterator[Move]:
    for entry, record, fault in examined:
        if not fault:
            yield Move(entry.key, entry.location, record, entry.is_certain)
        elif not entry.live:
            # A rotten tombstone is made anew: it says nothing that the index does not.
            yield Move(entry.key, entry.location)

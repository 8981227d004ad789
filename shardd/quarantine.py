"""Takes records out of service that are rotten or that the coordinator does not know.

Their bytes are kept in files (quarantine_files.py). `rot` is the node's list of bad shards, until
the coordinator deletes the address or appends it anew. An `orphan` it may take back, and after a
while it goes by itself.

A file is durable before its record gets a tombstone. A crash in between leaves a file whose shard
is in service; such files are deleted at start, unless the tombstone may be where nothing could be
read: then they are left to the next start.
"""

import asyncio
import logging
from collections.abc import Callable, Iterable, Sequence
from functools import partial

from common.errors import Corrupt, SixfoldError, StorageFull, StoreReadOnly
from common.failpoints import Point, failpoint
from common.ids import ShardAddress
from common.record import unpack_header
from common.upkeep import Quarantined, Why
from shardd.entries import Entry
from shardd.group import Move, WriteJob
from shardd.parts import StoreParts, to_the_end, uncut
from shardd.quarantine_files import QuarantineFolder
from shardd.verify import Examined, RecordFile
from shardd.volumes import is_full

log = logging.getLogger(__name__)


class Quarantine:
    """Used from the event loop."""

    def __init__(
        self,
        parts: StoreParts,
        rot_found: Callable[[], None],
        clock: Callable[[], float],
    ) -> None:
        """`rot_found` is called for each record that has been found rotten. What is kept is aged
        by `clock`, which nobody may be able to set (clock.py)."""
        self._parts, self._rot_found, self._clock = parts, rot_found, clock
        self._folder = QuarantineFolder(parts.directory, parts.disk, parts.fail)
        self._kept: dict[ShardAddress, Quarantined] = {}
        self._rot: set[ShardAddress] = set()
        self._changing = asyncio.Lock()  # two at once would remove each other's files
        found = self._folder.scan()
        places = parts.catalog.find([each.address.key for each in found])
        for each, place in zip(found, places, strict=True):
            if place is None:
                self._note(each)
            elif parts.volumes.are_all_read:
                self._folder.unlink(each)  # a crash came before its tombstone

    @property
    def bad_shards(self) -> int:
        """Rotten shards that the coordinator has not made good yet."""
        return len(self._rot)

    def is_bad(self, address: ShardAddress) -> bool:
        """Whether it is on the list of bad shards. From any thread."""
        return address in self._rot

    def page(self, after: ShardAddress | None, limit: int) -> list[Quarantined]:
        """Up to `limit` that follow `after`, in order of address."""
        wanted = (address for address in self._kept if after is None or address > after)
        return [self._kept[address] for address in sorted(wanted)[:limit]]

    # Rot

    async def condemn(self, examined: Sequence[Examined]) -> None:
        """Take records that were found rotten out of service, unless they were moved or deleted
        meanwhile, or can be read well after all. Raises the disk's OSError, or what the writer
        refuses with; the records stay in service then."""
        async with self._changing:
            for each in examined:
                await self._condemn(each)

    async def keep_lost(self, entries: Sequence[Entry]) -> None:
        """Recovery has left these out of the index: note that they are bad. If the disk does not
        take their files, the store is read-only, and they are noted all the same: what is good
        can be read, and the coordinator learns of what is not."""
        for entry in entries:
            self._note(await to_the_end(partial(self._keep, entry)))
            self._rot_found()

    def _keep(self, entry: Entry) -> Quarantined:
        kept = Quarantined(ShardAddress.from_key(entry.key), Why.ROT, self._now(), 0)
        volume = self._parts.volumes.by_number[entry.volume]
        try:
            with RecordFile(self._parts.disk, volume.path) as file:
                record = bytes(file.examine([entry])[0].record)
            return self._write_what_fits(kept._replace(size_bytes=len(record)), record)
        except OSError as error:
            self._parts.fail(f"{kept.address} is bad and cannot be set aside: {error}")
            return kept

    async def _condemn(self, bad: Examined) -> None:
        entry = bad.entry
        record = await to_the_end(lambda: self._read_again(bad))
        if record is None:
            return
        kept = Quarantined(ShardAddress.from_key(entry.key), Why.ROT, self._now(), len(record))
        if self._parts.failure() is not None:
            self._note_in_place(kept, bad.fault)
            return
        if _leaves_hole(entry, record):  # behind which no tombstone would be believed
            await self._parts.write(WriteJob(seal=entry.volume))
        kept = await to_the_end(lambda: self._write_what_fits(kept, record))
        failpoint(Point.QUARANTINE_WRITTEN)
        if await uncut(self._bury([(kept, Move(entry.key, entry.location))])):
            log.error("%s is rotten (%s): quarantined", kept.address, bad.fault)
            self._rot_found()

    def _note_in_place(self, kept: Quarantined, fault: str) -> None:
        """No tombstone can be written any more, and without one the record would be found, and
        copied, again and again. The coordinator shall know of it all the same."""
        if kept.address not in self._rot:
            log.error("%s is rotten (%s), and stays where it is: read-only", kept.address, fault)
            self._note(kept._replace(size_bytes=0))
            self._rot_found()

    def _read_again(self, bad: Examined) -> bytes | None:
        """The record's bytes if it is still in service and still rotten."""
        entry = bad.entry
        volume = self._parts.volumes.by_number.get(entry.volume)
        if volume is None or self._parts.catalog.places([entry.key]) != [entry.location]:
            return None
        with RecordFile(self._parts.disk, volume.path) as file:
            (again,) = file.examine([entry])
            return bytes(again.record) if again.fault else None

    def _write_what_fits(self, kept: Quarantined, record: bytes) -> Quarantined:
        """On a full disk the name must do: it says all that repair needs."""
        try:
            if len(record) <= self._room_bytes():
                self._folder.write(kept, record)
                self._folder.sync()
                return kept
        except OSError as error:
            if not is_full(error):
                raise
        kept = kept._replace(size_bytes=0)
        self._folder.write(kept, b"")
        self._folder.sync()
        return kept

    def settle(self, jobs: Iterable[WriteJob]) -> None:
        """These were done: what they append or delete is no longer bad."""
        if not self._rot:
            return
        for job in jobs:
            if job.error is None:
                made_good = {incoming.record.address for incoming in job.appends}
                made_good.update(job.deletes)
                for address in made_good & self._rot:
                    self._forget(self._kept[address])

    # Orphans

    def submitted(self, jobs: Iterable[WriteJob]) -> None:
        """The writer has these now: what they delete no longer comes back from here, neither by
        what was asked before nor by what still will be. That it went is no matter of their success:
        nobody takes back a delete."""
        if not self._kept:
            return
        for job in jobs:
            for address in self._kept.keys() & job.deletes:
                if (kept := self._kept[address]).why is Why.ORPHAN:
                    self._forget(kept)

    async def set_aside(
        self, addresses: Sequence[ShardAddress], check: Callable[[], None] = lambda: None
    ) -> int:
        """Take shards out of service that the coordinator does not know. How many there were.
        Raises StorageFull if there is no room to keep them, or StoreReadOnly, or what `check`
        raises once it has come to their turn or all are copied; they stay in service then."""
        async with self._changing:
            check()
            if (failure := self._parts.failure()) is not None:
                raise StoreReadOnly(failure)
            return await self._set_aside(addresses, check)

    async def _set_aside(self, addresses: Sequence[ShardAddress], check: Callable[[], None]) -> int:
        copied: list[tuple[Quarantined, Move]] = []
        try:
            for address in dict.fromkeys(addresses):
                await self._copy(address, copied)
            await to_the_end(self._folder.sync)
            check()
        except (OSError, SixfoldError) as error:
            for kept, _ in copied:
                self._folder.unlink(kept)
            if isinstance(error, OSError) and is_full(error):
                raise StorageFull("no room to keep orphans in quarantine") from None
            raise
        finally:  # from here on they count if and as long as they are noted
            self._parts.volumes.set_aside_bytes -= sum(kept.size_bytes for kept, _ in copied)
        failpoint(Point.QUARANTINE_WRITTEN)
        return await uncut(self._bury(copied)) if copied else 0

    async def _copy(self, address: ShardAddress, into: list[tuple[Quarantined, Move]]) -> None:
        catalog = self._parts.catalog
        (place,) = await to_the_end(lambda: catalog.find([address.key]))
        try:
            record = await self._parts.read(address.key) if place is not None else None
        except Corrupt:
            return  # rot, and scrub has been told
        if place is None or record is None:
            return
        try:
            kept = Quarantined(address, Why.ORPHAN, self._now(), len(record.data))
            if kept.size_bytes > self._room_bytes():
                raise StorageFull("no room to keep orphans in quarantine")
            await to_the_end(lambda: self._folder.write(kept, record.data))
        finally:
            record.release()
        self._parts.volumes.set_aside_bytes += kept.size_bytes
        into.append((kept, Move(address.key, place)))

    async def restore(self, addresses: Sequence[ShardAddress]) -> int:
        """Put back into service what is intact of these. How many are now."""
        async with self._changing:
            found = [self._kept[each] for each in dict.fromkeys(addresses) if each in self._kept]
            return sum([await self._restore(kept) for kept in found])

    async def _restore(self, kept: Quarantined) -> bool:
        try:
            record = await to_the_end(lambda: self._folder.read(kept))
            if self._kept.get(kept.address) != kept:
                return False  # deleted meanwhile
            await self._parts.write(WriteJob(appends=self._parts.placed([record])))
        except Corrupt as error:
            log.error("%s cannot be restored: %s", kept.address, error)
            return False
        failpoint(Point.QUARANTINE_RESTORED)
        self._forget(kept)
        await to_the_end(self._folder.sync)
        return True

    async def drop(self, address: ShardAddress) -> None:
        """Delete it for good, durably. An absent one is fine."""
        async with self._changing:
            if (kept := self._kept.get(address)) is not None:
                if kept.why is Why.ROT and self._parts.failure() is None:
                    await self._bury_unread(address.key)
                self._forget(kept)
                await to_the_end(self._folder.sync)

    async def _bury_unread(self, key: bytes) -> None:
        """What recovery found to be rotten has no tombstone, and may be read well one day."""
        (place,) = await to_the_end(lambda: self._parts.catalog.places([key]))
        if place is None or not place.live:
            await self._parts.write(WriteJob(moves=[Move(key, place)]))

    async def expire(self, kept_s: float, may_drop: Callable[[], bool] = lambda: True) -> int:
        """Drop the orphans that have been here for `kept_s`, if that is allowed once it has come to
        their turn. How many."""
        until = self._now() - kept_s
        async with self._changing:
            if not may_drop():
                return 0
            old = [q for q in self._kept.values() if q.why is Why.ORPHAN and q.at <= until]
            for each in old:
                self._forget(each)
            if old:
                await to_the_end(self._folder.sync)
        return len(old)

    # Both

    async def _bury(self, moves: Sequence[tuple[Quarantined, Move]]) -> int:
        """The files are durable: give the records their tombstones. How many were still there.
        Not to be cut short: which files must stay is known only once the writer has answered."""
        by_key = {move.key: kept for kept, move in moves}
        # Noted before, since from the tombstone on an append may make it good again.
        for kept in by_key.values():
            self._note(kept)
        job = WriteJob(moves=[move for _, move in moves])
        try:
            await self._parts.write(job)
        except StoreReadOnly:
            # The tombstones may be on the disk, so the files stay; the next start sees.
            for kept in by_key.values():
                self._overlook(kept)
            raise
        except SixfoldError:
            job.moved = []  # none was
            raise
        finally:
            for key in by_key.keys() - {move.key for move in job.moved}:
                self._forget(by_key[key])
        failpoint(Point.QUARANTINE_BURIED)
        return len(job.moved)

    def _note(self, kept: Quarantined) -> None:
        old = self._kept.get(kept.address)
        if old is not None and (old.why, old.at) != (kept.why, kept.at):
            self._forget(old)
        elif old is not None:
            self._parts.volumes.set_aside_bytes -= old.size_bytes
        self._kept[kept.address] = kept
        self._parts.volumes.set_aside_bytes += kept.size_bytes
        if kept.why is Why.ROT:
            self._rot.add(kept.address)

    def _forget(self, kept: Quarantined) -> None:
        if self._overlook(kept):
            self._folder.unlink(kept)

    def _overlook(self, kept: Quarantined) -> bool:
        """Its file stays. False if it is not known."""
        if self._kept.get(kept.address) != kept:
            return False
        del self._kept[kept.address]
        self._rot.discard(kept.address)
        self._parts.volumes.set_aside_bytes -= kept.size_bytes
        return True

    def _room_bytes(self) -> int:
        """Copies leave the reserve alone: without it nothing could be deleted, nor room be made."""
        return self._parts.volumes.room_bytes() - self._parts.reserve_bytes

    def _now(self) -> int:
        return int(self._clock())


def _leaves_hole(entry: Entry, record: bytes) -> bool:
    """Whether its header is gone, or another: recovery could not tell where it ends (scan.py)."""
    try:
        return unpack_header(record).info != entry.info
    except Corrupt:
        return True

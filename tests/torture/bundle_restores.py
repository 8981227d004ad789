"""Backups of the database, in a history of the test `bundles`: it is replaced by one, or lost
altogether, and rebuilt from the nodes."""

import random
from collections.abc import Mapping, Set
from dataclasses import dataclass
from pathlib import Path

from common.errors import NotFound, SixfoldError
from common.ids import ContentId
from coordinator.read_path import ReadPath
from tests.torture.bundle_ledger import State
from tests.torture.bundle_losses import MANY, NODES_LOST, Losses
from tests.torture.bundle_storm import Storm
from tests.torture.bundle_world import SEGMENT_BYTES


@dataclass(frozen=True, slots=True)
class Backup:
    """`file` is None for none at all: the database is lost. What is `deleted`, after so many
    uploads, no rebuild of it brings back. What is `queued` it says is deleted, and that stays so,
    though it may have been stored again."""

    file: Path | None
    deleted: Mapping[int, int]
    queued: Set[int] = frozenset()


class Restores(Losses):
    """With at most one backup at a time."""

    def __init__(self, directory: Path, rng: random.Random) -> None:
        super().__init__(directory, rng)
        self._backup: Backup | None = None

    async def _back_up(self) -> None:
        self.story.append("backup")
        file = self._directory / "backup.db"
        self.world.back_up(file)
        deleted = self.ledger.deleted_for_good(self.world)
        self._backup = Backup(file, deleted, self.ledger.queued(self.world))

    async def _restore(self) -> None:
        """Of a backup, or of nothing but what nodes have."""
        backup = self._chosen()
        if self._rng.random() < 0.2:
            await self._wipe()
        self.story.append("restored from " + ("a backup" if backup.file else "nothing"))
        self.counts["restored"] += 1
        await self.world.restore(backup.file)
        if not await self.world.coordinators[0].deletes_stopped():
            self.ledger.violations.append("no alarm")
        uploads = self._rng.random() < 0.4
        if uploads or backup.file:
            self.ledger.not_marked()
        strict = self._set_states(backup)
        await self._rebuild_it(uploads)
        self.ledger.not_sure(backup.deleted)
        await self._go_on(strict)

    def _chosen(self) -> Backup:
        backup = self._backup
        if backup is None or self._rng.random() < 0.2:
            backup = Backup(None, self.ledger.nowhere(self.world.nodes))
        if backup.file is None or self._rng.random() < 0.7:
            self._backup = None  # else it may be restored once more
        return backup

    async def _go_on(self, strict: Set[int]) -> None:
        """Deletes are allowed. Layouts are those of then: repair looks for shards elsewhere."""
        await self.world.begin_sessions()
        await self.world.coordinators[0].allow_deletes()
        async with self._gated() as storm:
            await storm.gates.run(self._mend_all(storm))
            await storm.gates.run(self._heal_restored(storm, strict))
        await self._look()

    def _set_states(self, backup: Backup) -> set[int]:
        """What is certain of a database that was restored. Those of which all is on nodes."""
        ledger = self.ledger
        there = set(ledger.having(State.THERE))
        for content in there & (backup.queued | ledger.unmarked):
            ledger.states[content] = State.MAYBE
        ledger.not_sure(backup.deleted)
        return there

    async def _rebuild_it(self, uploads: bool) -> None:
        """Perhaps beside uploads or after some, perhaps while nodes are away, perhaps twice."""
        beside = uploads and self._rng.random() < 0.5
        if uploads:
            await self._uploads(beside)
        if beside and self._rng.random() < 0.7:
            return
        if self._is_whole and self._rng.random() < 0.3:
            await self._rebuild_without_all()
        for _ in range(self._rng.choice([1, 2])):
            await self._rebuild_alone()

    async def _uploads(self, rebuild: bool) -> None:
        self.story.append("uploads beside a rebuild" if rebuild else "uploads before a rebuild")
        async with self._gated(MANY) as storm:
            rebuilds = [storm.rebuild()] if rebuild else []
            await storm.gates.run(*rebuilds, *storm.uploads())
        self.ledger.not_marked()
        self._is_whole = False

    async def _rebuild_alone(self) -> None:
        self.story.append("rebuild")
        async with self._gated() as storm:
            await storm.gates.run(storm.rebuild())

    async def _rebuild_without_all(self) -> None:
        nodes = self.world.nodes
        nodes.away.update(self._rng.sample(list(nodes.stores), self._rng.randint(1, NODES_LOST)))
        self.story.append(f"nodes {sorted(nodes.away)} are away for a while")
        await self._rebuild_alone()
        nodes.away.clear()
        self._is_whole = False

    async def _rebuild(self) -> None:
        """Beside all else. What was deleted may come back."""
        self.story.append("storm and rebuild")
        self.ledger.renew(self._rng)
        deleted = self.ledger.deleted_for_good(self.world)
        self.ledger.not_sure(deleted)
        async with self._gated(MANY) as storm:
            rebuild = storm.rebuild(self._rng.randint(1, 3))
            await storm.gates.run(rebuild, *storm.everything())
        self.ledger.not_sure(deleted)
        self.ledger.not_marked()
        self._is_whole = False  # of uploads that failed meanwhile it may have seen a part
        async with self._gated() as storm:
            await storm.gates.run(self._heal_restored(storm, set()))
        await self._look()

    async def _heal_restored(self, storm: Storm, strict: Set[int]) -> None:
        """What was deleted since the backup may be there, and not be readable; or an upload that
        failed beside the rebuild. Somebody stores it again, or deletes it."""
        writes, reads = self._rng.choice(storm.ends)
        for content in sorted(set(self.ledger.having(State.MAYBE)) - strict):
            large = len(self.ledger.contents[content]) > SEGMENT_BYTES  # its list may be gone
            if large or await _is_lost(self.ledger.ids[content], reads):
                await reads.settle()
                if self._rng.random() < 0.5:
                    await self._put_again(storm, content, writes)
                else:
                    await self.world.coordinators[0].unpin(self.ledger.ids[content])
                    self.ledger.states[content] = State.GONE


async def _is_lost(id_: ContentId, reads: ReadPath) -> bool:
    try:
        await reads.check(await reads.find(id_))
    except NotFound:
        return False
    except SixfoldError:
        return True
    return False

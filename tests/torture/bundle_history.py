"""One history of the test `bundles`."""

from common.ids import ContentId
from common.shards import Encoding
from coordinator.metadata import Metadata
from tests.bundles import Ends
from tests.metadata_parts import GRACE_S, execute, seize_lease
from tests.torture.bundle_restores import Restores
from tests.torture.bundle_storm import workers

ROUNDS = 12
TABLES = (
    "segment", "pin", "content", "content_segment", "collect_queue", "outbox_delete", "orphan",
    "repair_queue", "rebundle_queue",
)  # fmt: skip
# Of lists and bundles of uploads that failed beside a rebuild, which has seen a few shards. It
# leaves them, since the others might lie on nodes that cannot be asked.
FORGET_UNREADABLE = (
    "DELETE FROM segment WHERE encoding <> ? AND id IN "
    "(SELECT segment FROM repair_queue WHERE survivors < 6)"
)
FORGET_REPAIRS = "DELETE FROM repair_queue WHERE segment NOT IN (SELECT id FROM segment)"


class History(Restores):
    """Everything comes in random order; in the end everything goes."""

    async def run(self) -> None:
        await self.world.open()
        try:
            for _ in range(ROUNDS):
                await self._round()
                if self.ledger.violations:
                    return
            await self._remove_all()
        finally:
            await self.world.close()
            self.counts += self.world.counts
            self.counts["acknowledged"] = self.ledger.acknowledged
            self.counts["broken"] = bool(self.ledger.violations)

    async def _round(self) -> None:
        steps = [self._back_up, self._restore, self._lose_nodes, self._lose_segment, self._rebuild]
        (step,) = self._rng.choices([*steps, self._storm], [3, 3, 1, 2, 3, 1])
        await step()
        if not self.ledger.violations:
            await self._storm()
        if self._rng.random() < 0.5:
            self.world.pass_time(self._rng.choice([60, GRACE_S // 2 + 100, GRACE_S, GRACE_S]))
        if self._rng.random() < 0.4:
            await self._clean_up()

    async def _clean_up(self) -> None:
        """All jobs, with the time between that lets them delete."""
        self.story.append("clean up")
        for _ in range(self._rng.randint(1, 2)):
            self.world.pass_time(GRACE_S)
            await self._work()

    async def _work(self) -> None:
        at = self._rng.randrange(2)
        async with self._gated() as storm:
            await storm.gates.run(_work(self.world.coordinators[at], storm.ends[at]))

    async def _work_on(self) -> None:
        """Until nothing more is to be done: what is collected may be noted, and go, later."""
        for _ in range(4):
            self.world.clock.now_s += GRACE_S
            await self.world.begin_sessions()
            await self._work()

    async def _remove_all(self) -> None:
        """Then nothing is left."""
        world = self.world
        for (id_,) in world.rows("SELECT content FROM pin"):  # pieces of others may be among them
            await world.coordinators[0].unpin(ContentId(id_))
        await self._work_on()
        await execute(world.coordinators[0], FORGET_UNREADABLE, int(Encoding.PLAIN))
        await execute(world.coordinators[0], FORGET_REPAIRS)
        await self._work_on()
        for table in TABLES:
            ((rows,),) = world.rows(f"SELECT count(*) FROM {table}")
            if rows:
                self.ledger.violations.append(f"{rows} rows of {table} are left in the end")
        if shards := world.nodes.shards():
            self.ledger.violations.append(f"{len(shards)} shards are left in the end")


async def _work(metadata: Metadata, ends: Ends) -> None:
    for worker in workers(metadata, ends):
        await seize_lease(metadata, worker.name)
        while await worker.step():
            pass

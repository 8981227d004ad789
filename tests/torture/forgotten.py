"""The metadata database forgets all it knew, in a random history, and is filled again from the
nodes: while some of them are away, and once more when all are back. In between uploads and jobs go
on.

Contents that are pieces of others are among them, and come back like all else. What was deleted may
come back, too.
"""

import asyncio
import random
import shutil

from common.errors import SixfoldError
from coordinator.metadata.sql import Sql
from coordinator.rebuild import Rebuild
from tests.torture.histories import JOBS, History, no_rest
from tests.torture.one_process import GRACE_S, NODES, Store
from tests.torture.outcome import Outcome, quiet, scaled, scratch

ROW = 19
PROMISE = "a database that is lost is filled again from the nodes, and nothing is lost with it"
STORES = 200
STEPS = 12  # of the history
ROUNDS = 2  # of all jobs, a grace period apart
MOST_AWAY = 5
FORGOTTEN = (
    "segment", "pin", "content", "content_segment", "repair_queue", "outbox_delete",
    "deleted_place", "orphan", "collect_queue", "job_state", "layout",
)  # fmt: skip


def main(scale: float, seed: int) -> Outcome:
    """Each round is a store of its own."""
    rounds, rng = scaled(STORES, scale), random.Random(seed)
    violations, contents = list[str](), 0
    with scratch("forgotten", in_memory=True) as directory, quiet(), no_rest():
        for number in range(rounds):
            round_ = _Round(Store(directory / str(number)), rng, number % (MOST_AWAY + 1))
            violations += [f"round {number}: {fault}" for fault in asyncio.run(round_.run())]
            contents += len(round_.history.contents)
            shutil.rmtree(directory / str(number))
    return Outcome(
        f"{rounds} databases forgotten, {contents:,} contents, {len(violations)} of them wrong",
        violations,
    )


class _Round:
    def __init__(self, store: Store, rng: random.Random, away: int) -> None:
        self.store, self.rng = store, rng
        self.away = rng.sample(list(NODES), away)
        self.history = History(store, rng, moves=True, pieces=True)

    async def run(self) -> list[str]:
        await self.store.start()
        try:
            return await self._run()
        finally:
            await self.store.close()

    async def _run(self) -> list[str]:
        history, front = self.history, self.store.fronts[0]
        await history.go_on(STEPS)
        await history.put()
        await history.put_piece()
        await front.metadata._write(_forget)
        history.deleted.clear()
        for number in self.away:
            await self.store.kill(number)
        await self._rebuild()
        if self.rng.random() < 0.5:
            await self._go_on()
        for number in self.away:
            await self.store.restart(number)
        await self.store.pass_time(5)
        await self._rebuild()
        await front.metadata.allow_deletes()
        wrong = await history.wrong()
        for _ in range(ROUNDS):
            await self.store.pass_time(GRACE_S + 1)
            await self._work("scrub", *JOBS)
        return wrong + await history.wrong()

    async def _rebuild(self) -> None:
        front = self.rng.choice(self.store.fronts)
        await Rebuild(front.metadata, front.cluster, front.reads).run()

    async def _go_on(self) -> None:
        """With what is there. Nothing is stored if that is too little."""
        try:
            await self.history.put()
            await self.history.put_again()
        except SixfoldError:
            await self.history.settle()
        await self._work(*JOBS)

    async def _work(self, *jobs: str) -> None:
        for job in jobs:
            await self.rng.choice(self.store.fronts).work(job)


def _forget(sql: Sql) -> None:
    for table in FORGOTTEN:
        sql.run(f"DELETE FROM {table}")
    sql.run("UPDATE cluster SET layouts_forgotten = layouts_forgotten + 1")

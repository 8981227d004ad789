"""The metadata database is replaced by a backup of some time ago, in a random history, and all jobs
run on: they delete nothing and say so. The nodes give back what was stored since, and once deletes
are allowed again, nothing of it is lost.

What the backup says was deleted stays so, also if it was stored again since: on nodes that leaves
no trace. What was deleted since the backup, of which that knows nothing, can be stored again.
"""

import asyncio
import random
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

from common.ids import ShardAddress
from coordinator.rebuild import Rebuild
from tests.torture.histories import JOBS, History, no_rest
from tests.torture.one_process import GRACE_S, NODES, Store
from tests.torture.outcome import Outcome, quiet, scaled, scratch

ROW = 19
PROMISE = (
    "a database restored from an old backup deletes nothing, raises an alarm, and loses nothing"
)
BACKUPS = 200
BEFORE, SINCE = 10, 10  # steps of the history
ROUNDS = 3  # of all jobs, a grace period apart

Shards = set[tuple[int, ShardAddress]]


def main(scale: float, seed: int) -> Outcome:
    """Each round is a store of its own."""
    rounds, rng = scaled(BACKUPS, scale), random.Random(seed)
    violations, held, since = list[str](), 0, 0
    with scratch("backups", in_memory=True) as directory, quiet(), no_rest():
        for number in range(rounds):
            round_ = _Round(directory / str(number), rng)
            violations += [f"round {number}: {fault}" for fault in asyncio.run(round_.run())]
            held, since = held + round_.held, since + round_.since
            shutil.rmtree(directory / str(number))
    return Outcome(
        f"{rounds} backups restored over {held:,} shards, {since:,} contents come or gone since, "
        f"{len(violations)} deletions, losses or missing alarms",
        violations,
    )


class _Round:
    def __init__(self, directory: Path, rng: random.Random) -> None:
        self.directory, self.rng = directory, rng
        self.store = Store(directory)
        self.held = self.since = 0

    async def run(self) -> list[str]:
        await self.store.start()
        try:
            return await self._run(History(self.store, self.rng, moves=True))
        finally:
            await self.store.close()

    async def _run(self, history: History) -> list[str]:
        await history.go_on(BEFORE)
        backup = self._back_up()
        then, deleted = dict(history.contents), set(history.deleted)
        await self.store.pass_time(90)  # sessions end, new ones begin, and nodes hear of it
        await history.put()
        await history.go_on(SINCE)
        await self.store.pass_time(5)
        self.since = len(then.keys() ^ history.contents.keys())
        before = await self._shards()
        self.held = len(before)
        await self._restore(backup)
        # This is acknowledged, so it must be there, whatever the backup says.
        back = set(history.deleted)
        await history.put_back()
        wrong = await self._nothing_goes(before)
        # What was deleted since may be there again, what had been deleted before may not.
        deleted -= back
        history.contents = {i: d for i, d in history.contents.items() if i not in deleted}
        front = self.store.fronts[0]
        await Rebuild(front.metadata, front.cluster, front.reads).run()
        wrong += await history.wrong()
        await front.metadata.allow_deletes()
        await self._work()
        return wrong + await history.wrong()

    def _back_up(self) -> Path:
        backup = self.directory / "backup.db"
        with closing(sqlite3.connect(self.store.database)) as database:
            database.execute("VACUUM INTO ?", (str(backup),))
        return backup

    async def _restore(self, backup: Path) -> None:
        await self.store.stop_fronts()
        for file in self.store.database.parent.glob("metadata.db*"):
            file.unlink()
        shutil.copy(backup, self.store.database)
        await self.store.start_fronts()

    async def _nothing_goes(self, before: Shards) -> list[str]:
        await self._work()
        gone = before - await self._shards()
        wrong = [f"{address} is gone from node {node}" for node, address in sorted(gone)]
        alarm = await self.store.fronts[0].metadata.deletes_stopped()
        return wrong if "older than the nodes" in alarm else [*wrong, f"no alarm but {alarm!r}"]

    async def _work(self) -> None:
        """All that the jobs have to do, with the time between that lets them delete."""
        for _ in range(ROUNDS):
            await self.store.pass_time(GRACE_S + 1)
            for job in JOBS:
                await self.rng.choice(self.store.fronts).work(job)

    async def _shards(self) -> Shards:
        return {
            (node, info.address) for node in NODES for info in await self.store.nodes[node].shards()
        }

"""One to three nodes come back with the directories of long ago: what was deleted since stays
deleted, what was written since is read, and in the end all is whole and nothing is left over."""

import asyncio
import random
import shutil
from pathlib import Path

from tests.torture.histories import History, no_rest
from tests.torture.one_process import NODES, Store
from tests.torture.outcome import Outcome, quiet, scaled, scratch
from tests.torture.wholeness import faults, left_behind, repaired

ROW = 10
PROMISE = "a node that comes back old resurrects nothing and gives no wrong byte"
RETURNS = 200
STEPS = 12  # before the snapshot, after it, and once more


def main(scale: float, seed: int) -> Outcome:
    """Each round is a store of its own."""
    rounds, rng = scaled(RETURNS, scale), random.Random(seed)
    violations, old, deleted = list[str](), 0, 0
    with scratch("comeback", in_memory=True) as directory, quiet(), no_rest():
        for number in range(rounds):
            round_ = _Round(directory / str(number), rng)
            violations += [f"round {number}: {fault}" for fault in asyncio.run(round_.run())]
            old += len(round_.old)
            deleted += round_.deleted
            shutil.rmtree(directory / str(number))
    return Outcome(
        f"{old} old directories in {rounds} stores, {deleted:,} contents deleted since, "
        f"{len(violations)} resurrected, wrong or left over",
        violations,
    )


class _Round:
    def __init__(self, directory: Path, rng: random.Random) -> None:
        self.directory, self.rng = directory, rng
        self.store = Store(directory)
        self.old = rng.sample(NODES, rng.randint(1, 3))
        self.deleted = 0

    async def run(self) -> list[str]:
        await self.store.start()
        try:
            return await self._run(History(self.store, self.rng))
        finally:
            await self.store.close()

    async def _run(self, history: History) -> list[str]:
        await history.go_on(STEPS)
        for node in self.old:
            await self._copy(node)
        before = set(history.deleted)
        await history.go_on(STEPS)
        await history.let_pass()
        self.deleted = len(history.deleted.keys() - before)
        await asyncio.gather(*map(self._put_back, self.old))
        wrong = await history.wrong()
        await history.go_on(STEPS)
        wrong += await history.wrong()
        for front in self.store.fronts:
            await front.work("sweep")
        await repaired(self.store, 0, 1)
        wrong += [fault async for fault in faults(self.store, history.contents)]
        return wrong + await left_behind(self.store) + await history.wrong()

    async def _copy(self, node: int) -> None:
        """As a snapshot of the file system takes it."""
        path = self.store.nodes[node].path
        ignored = shutil.ignore_patterns("lock")
        await asyncio.to_thread(shutil.copytree, path, self._snapshot(node), ignore=ignored)

    async def _put_back(self, node: int) -> None:
        await self.store.kill(node)
        path = self.store.nodes[node].path
        await asyncio.to_thread(shutil.rmtree, path)
        self._snapshot(node).rename(path)
        await self.store.restart(node)

    def _snapshot(self, node: int) -> Path:
        return self.directory / f"old-{node}"

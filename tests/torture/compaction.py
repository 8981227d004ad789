"""A node ends, without any cleanup, at every step of compaction and of quarantine. The next start
finds its index as it was left, without its last transactions, or not at all.

Then everything live is served, nothing deleted is, every orphan is in service or in quarantine and
never in both; and the room of what is dead still comes back.
"""

import asyncio
import multiprocessing
import os
import random
from pathlib import Path

from common import failpoints
from common.failpoints import EXIT_CODE, Point
from common.shards import ShardRecord
from tests.torture.ends import Ends
from tests.torture.outcome import Outcome, quiet, scaled, scratch
from tests.upkeep import (
    addresses_of,
    append_all,
    bytes_on_disk,
    check,
    compact_all,
    held,
    opened,
    shards_of,
    snapshot,
    with_index_of,
    without_index,
)

ROW = 3
PROMISE = "no step of compaction or quarantine loses a shard or brings one back"
ENDS = 50  # at each point
SHARDS = 60
OWN = ("quarantine-written", "quarantine-buried", "quarantine-restored")
POINTS = [point for point in Point if point.startswith("compact-") or point in OWN]


def main(scale: float, seed: int) -> Outcome:
    wanted, ended, violations = scaled(ENDS, scale), 0, list[str]()
    processes = multiprocessing.get_context("forkserver")
    processes.set_forkserver_preload([__name__])
    with scratch("compaction") as directory, quiet():
        for point in POINTS:
            ends = Ends(point, wanted)
            for number in ends.runs():
                run = _Run(directory / f"{point}-{number}", f"{seed} {point} {number}")
                ends.came += run.ends_at(processes, point)
                violations += [f"{point}, run {number}: {said}" for said in run.judge()]
            ended += ends.came
            violations += ends.missing()
    figure = f"{len(POINTS)} steps, each {wanted} times: {ended} nodes ended there"
    return Outcome(f"{figure}, {len(violations)} broken", violations)


class _Run:
    """One node, whose past follows from its seed."""

    def __init__(self, path: Path, seed: str) -> None:
        self.path, self.random = path, random.Random(seed)
        shards = shards_of(range(SHARDS))
        self.random.shuffle(shards)
        dead, orphans = self.random.randint(25, 50), self.random.randint(2, 6)
        self.dead, rest = shards[:dead], shards[dead:]
        self.orphans, self.live = rest[:orphans], rest[orphans:]

    def ends_at(self, processes: multiprocessing.context.ForkServerContext, point: Point) -> bool:
        """Whether it came to the point; it may come there fewer times than was drawn."""
        asyncio.run(self._make_garbage())
        before = snapshot(self.path, self.path.with_suffix(".before"))
        armed = f"{point}:{self.random.choice([1, 1, 2, 3])}"
        life = processes.Process(target=_live, args=(self.path, armed, self.orphans))
        life.start()
        life.join()
        assert life.exitcode in (0, EXIT_CODE), f"the node ended with {life.exitcode}"
        self.random.choice([_keep, without_index, with_index_of(before)])(self.path)
        return life.exitcode == EXIT_CODE

    async def _make_garbage(self) -> None:
        everything = [*self.dead, *self.orphans, *self.live]
        self.random.shuffle(everything)
        async with opened(self.path) as store:
            await append_all(store, everything)
            await store.delete(addresses_of(self.dead[::2]))
            await store.append(self.dead[:6])
            await store.delete(addresses_of(self.dead))

    def judge(self) -> list[str]:
        try:
            asyncio.run(self._check())
            without_index(self.path)
            asyncio.run(self._check())
        except AssertionError as error:
            return [str(error) or repr(error)]
        return []

    async def _check(self) -> None:
        async with opened(self.path) as store:
            served = await held(store, self.orphans)
            aside = [each.address for each in store.upkeep.quarantine.page(None, SHARDS)]
            for shard, here in zip(self.orphans, served, strict=True):
                assert here != (shard.address in aside), f"{shard.address}: in service {here}"
            orphans = [s for s, here in zip(self.orphans, served, strict=True) if here]
            gone = [s for s in self.orphans if s not in orphans]
            await check(store, self.live + orphans, self.dead + gone)
            await compact_all(store)
            await check(store, self.live + orphans, self.dead + gone)
        kept_bytes = sum(len(shard.payload) + 4096 for shard in self.live + orphans)
        used_bytes = bytes_on_disk(self.path)
        assert used_bytes < 2 * kept_bytes + 128_000, f"{used_bytes} bytes for {kept_bytes}"


def _keep(path: Path) -> None:
    pass


def _live(path: Path, armed: str, orphans: list[ShardRecord]) -> None:
    asyncio.run(_look_after_itself(path, armed, orphans))


async def _look_after_itself(path: Path, armed: str, orphans: list[ShardRecord]) -> None:
    with quiet():
        async with opened(path) as store:
            failpoints.arm(armed, os._exit)
            quarantine = store.upkeep.quarantine
            await store.compact_once()
            for at in range(0, len(orphans), 2):
                await quarantine.set_aside(addresses_of(orphans[at : at + 2]))
            await quarantine.restore(addresses_of(orphans[::2]))
            await compact_all(store)

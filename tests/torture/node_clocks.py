"""A node whose time of day is wrong by days and jumps, on a machine that is restarted: in a random
history no orphan leaves quarantine early, nor stays for good, and scrub goes on."""

import random
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path

from common.ids import ShardAddress
from shardd.clock import KEEP_EVERY_S
from shardd.store import VolumeStore
from shardd.upkeep import DAY_S, UpkeepLimits
from tests.stores import make_shard
from tests.torture.storage_node import WithoutSync
from tests.upkeep import SMALL_VOLUMES, NodeTime, opened

STEPS = 60
LIMITS = UpkeepLimits()
PASSES_S = (60, 700, 3600, DAY_S, 3 * DAY_S, LIMITS.quarantine_s - 2, LIMITS.scrub_interval_s)
OFF_S = (0, 60, DAY_S, 30 * DAY_S)
ROUNDED_S = 1  # times are kept in whole seconds
MOST_STEPS = 50  # of a pass over so little


@dataclass
class NodeTally:
    restarts: int = 0
    expired: int = 0
    early: int = 0
    passes: int = 0
    violations: list[str] = field(default_factory=list)

    def figure(self, histories: int) -> str:
        return (
            f"{histories:,} of a node, {self.restarts:,} restarts: {self.expired:,} orphans gone, "
            f"{self.early} early; {self.passes:,} scrubs"
        )


class NodeHistory:
    """`aside_s` is when each orphan that is kept was set aside; `began_s` when scrub last began,
    or the clock was set since. All in `time.true_s`."""

    def __init__(self, directory: Path, rng: random.Random, tally: NodeTally) -> None:
        self._directory, self._rng, self._tally = directory, rng, tally
        self._time = NodeTime(1_700_000_000.0, rng.uniform(-10 * DAY_S, 10 * DAY_S))
        self._aside_s: dict[ShardAddress, float] = {}
        self._began_s, self._passes, self._made = self._time.true_s, 0, 0
        self._open = AsyncExitStack()
        self._store: VolumeStore

    async def run(self) -> None:
        await self._start()
        steps: list[Callable[[], Awaitable[None]]] = [
            self._set_aside, self._pass, self._pass, self._jump, self._restart, self._restart_all,
        ]  # fmt: skip
        for _ in range(STEPS):
            await self._rng.choice(steps)()
            await self._look_after_itself()
        # Each restart of the machine may cost what was not kept of the clock.
        self._time.true_s += LIMITS.quarantine_s + ROUNDED_S + STEPS * KEEP_EVERY_S
        await self._look_after_itself()
        await self._open.aclose()
        if self._aside_s:
            self._note(f"{len(self._aside_s)} orphans stay")

    async def _start(self) -> None:
        node = opened(self._directory, SMALL_VOLUMES, WithoutSync(), self._time.clocks)
        self._store = await self._open.enter_async_context(node)

    def _note(self, violation: str) -> None:
        self._tally.violations.append(f"{self._directory.name}: {violation}")

    async def _set_aside(self) -> None:
        self._made += 1
        shard = make_shard(100, self._made)
        await self._store.append([shard])
        await self._store.upkeep.quarantine.set_aside([shard.address])
        self._aside_s[shard.address] = self._time.true_s

    async def _pass(self) -> None:
        self._time.true_s += self._rng.choice(PASSES_S)

    async def _jump(self) -> None:
        """Somebody sets the clock; sometimes right, and sometimes it was off by a year."""
        self._time.error_s = self._rng.choice(
            [0.0, self._time.error_s + self._rng.uniform(-DAY_S, DAY_S), 365 * DAY_S]
        )
        self._began_s = self._time.true_s

    async def _restart(self) -> None:
        """The process."""
        self._tally.restarts += 1
        await self._open.aclose()
        await self._start()

    async def _restart_all(self) -> None:
        """The machine, which may have been off."""
        await self._open.aclose()
        self._tally.restarts += 1
        self._time.true_s += self._rng.choice(OFF_S)
        self._time.restart()
        await self._jump()
        await self._start()

    async def _look_after_itself(self) -> None:
        """As it does all the time."""
        upkeep = self._store.upkeep
        await upkeep._tick()
        self._tally.expired += await upkeep.quarantine.expire(LIMITS.quarantine_s)
        self._judge_quarantine()
        steps = 0
        while steps < MOST_STEPS and await upkeep.scrubber.scrub_once():
            steps += 1
        self._judge_scrub(steps)

    def _judge_quarantine(self) -> None:
        kept = {each.address for each in self._store.upkeep.quarantine.page(None, 1000)}
        for address in self._aside_s.keys() - kept:
            early_s = self._aside_s.pop(address) + LIMITS.quarantine_s - self._time.true_s
            if early_s > ROUNDED_S:
                self._tally.early += 1
                self._note(f"{early_s:.0f} s early")

    def _judge_scrub(self, steps: int) -> None:
        passes = self._store.upkeep.scrub_report().passes
        if passes > self._passes:
            self._tally.passes += passes - self._passes
            self._passes, self._began_s = passes, self._time.true_s
        late_s = self._time.true_s - self._began_s - LIMITS.scrub_interval_s
        if late_s > ROUNDED_S or steps == MOST_STEPS:
            self._note(f"scrub is {late_s:.0f} s late, after {steps} steps")

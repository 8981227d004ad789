"""Processes whose time of day is wrong by days and jumps, on a machine that is restarted: in random
histories nothing is collected before its grace period is over, and no lease is held twice. A node
keeps what is in quarantine for its week, and goes on with scrub (node_clocks.py)."""

import os
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path

import uvloop

from common.errors import SessionLost
from common.ids import ContentId
from coordinator.metadata import Metadata, open_metadata
from tests.metadata_parts import GRACE_S, Clock, segment, single
from tests.torture.node_clocks import NodeHistory, NodeTally
from tests.torture.outcome import Outcome, quiet, scaled, scratch

ROW = 15
PROMISE = "clocks may be days wrong: nothing goes early, no lease is held twice"
HISTORIES, NODE_HISTORIES, STEPS = 5_000, 500, 60

DAY_S = 86_400
PROCESSES = 3
LEASE_S = 15
LEASES = ("one job", "another")
PASSES_S = (1, 4, 10, 14, 16, 30, 61, GRACE_S // 2, GRACE_S)


class Skewed(Clock):
    """Of a process that is wrong about the time of day, as the test moves it. The rest is the
    machine's."""

    def __init__(self, machine: Clock, error_s: float) -> None:
        self.machine, self.error_s, self.boot = machine, error_s, machine.boot

    def __call__(self) -> float:
        return self.machine()

    def wall(self) -> float:
        return self.machine.wall() + self.error_s


@dataclass
class Tally:
    steps: int = 0
    collected: int = 0
    leases: int = 0
    restarts: int = 0
    early: int = 0
    doubled: int = 0
    violations: list[str] = field(default_factory=list)

    def figure(self, histories: int) -> str:
        return (
            f"{histories:,} histories of {self.steps:,} steps, {self.restarts:,} restarts of the "
            f"machine: {self.collected:,} contents collected, {self.early} early; "
            f"{self.leases:,} leases given, {self.doubled} held twice"
        )


def main(scale: float, seed: int) -> Outcome:
    histories, tally = scaled(HISTORIES, scale), Tally()
    node_histories, node_tally = scaled(NODE_HISTORIES, scale), NodeTally()
    with scratch("clocks", in_memory=True) as directory, quiet():
        for number in range(histories):
            history = _History(directory / str(number), random.Random(f"{seed} {number}"), tally)
            uvloop.run(history.run())
        for number in range(node_histories):
            rng = random.Random(f"{seed} node {number}")
            uvloop.run(NodeHistory(directory / f"node-{number}", rng, node_tally).run())
    return Outcome(
        f"{tally.figure(histories)}; {node_tally.figure(node_histories)}",
        tally.violations + node_tally.violations,
    )


class _History:
    """`true_s` is the time that has really passed. A lease runs until the time that is noted of
    its holder; a content may go at the time that is noted of it."""

    def __init__(self, directory: Path, rng: random.Random, tally: Tally) -> None:
        self.directory, self.rng, self.tally = directory, rng, tally
        self.true_s = 0.0
        self.machine = Clock(rng.uniform(0, 30 * DAY_S))
        self.clocks: list[Skewed] = []
        self.processes: list[Metadata] = []
        self.may_go_s: dict[ContentId, float] = {}
        self.holders: dict[str, tuple[Metadata, float]] = {}

    async def run(self) -> None:
        await self._start()
        steps: list[Callable[[], Awaitable[None]]] = [
            self._delete_one, self._take, self._take, self._collect, self._collect, self._pass,
            self._pass, self._renew, self._jump,
        ]  # fmt: skip
        for _ in range(STEPS):
            self.tally.steps += 1
            await (self._restart if self.rng.random() < 0.02 else self.rng.choice(steps))()
        await self._stop()

    async def _start(self) -> None:
        """Processes that each believe in another time of day, found in another order."""
        errors_s = [self.rng.uniform(-10 * DAY_S, 10 * DAY_S) for _ in range(PROCESSES)]
        self.clocks = [Skewed(self.machine, error_s) for error_s in errors_s]
        self.processes = [open_metadata(self.directory, "", GRACE_S, c) for c in self.clocks]
        for process in self.processes:
            await process.start()

    async def _stop(self) -> None:
        for process in self.processes:
            await process.close()

    async def _restart(self) -> None:
        """The machine's: its clock begins anew, wherever, after any time."""
        self.tally.restarts += 1
        await self._stop()
        self.true_s += self.rng.choice([0, 30, DAY_S])
        self.machine = Clock(self.rng.uniform(0, 30 * DAY_S))
        self.machine.boot = os.urandom(8).hex()
        await self._start()

    def _any(self) -> Metadata:
        return self.rng.choice(self.processes)

    async def _delete_one(self) -> None:
        """A content that was stored just now."""
        process = self._any()
        try:
            stored = segment(process)
            await process.commit_content(single(stored))
        except SessionLost:
            await process._begin_session()
            return
        await self._any().unpin(ContentId(stored.id))
        self.may_go_s[ContentId(stored.id)] = self.true_s + GRACE_S

    async def _collect(self) -> None:
        await self._any().collect(100)
        for id_, may_go_s in list(self.may_go_s.items()):
            if await self._is_known(id_):
                continue
            del self.may_go_s[id_]
            self.tally.collected += 1
            if self.true_s < may_go_s:
                self.tally.early += 1
                early_s = may_go_s - self.true_s
                self.tally.violations.append(f"{self.directory.name}: {early_s:.0f} s early")

    async def _is_known(self, id_: ContentId) -> bool:
        query = "SELECT 1 FROM segment WHERE id = ?"
        return bool(await self.processes[0]._read(lambda sql: sql.rows(query, id_)))

    async def _take(self) -> None:
        name, process = self.rng.choice(LEASES), self._any()
        try:
            if await process.take_lease(name, LEASE_S) is None:
                return
        except SessionLost:
            await process._begin_session()
            return
        self.tally.leases += 1
        holder, until_s = self.holders.get(name, (process, 0.0))
        if holder is not process and self.true_s < until_s:
            self.tally.doubled += 1
            left_s = until_s - self.true_s
            self.tally.violations.append(f"{self.directory.name}: {name} had {left_s:.0f} s left")
        self.holders[name] = process, self.true_s + LEASE_S

    async def _pass(self) -> None:
        passed_s = self.rng.choice(PASSES_S)
        self.true_s += passed_s
        self.machine.now_s += passed_s

    async def _renew(self) -> None:
        for process in self.processes:
            await process._begin_session()

    async def _jump(self) -> None:
        """Somebody sets a clock."""
        self.rng.choice(self.clocks).error_s += self.rng.uniform(-DAY_S, DAY_S)

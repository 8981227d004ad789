"""A node's disk fails once, at any call of any kind, in random programs of a store: what was
acknowledged is there, also after a restart and a power loss; after a sync that failed nothing is
acknowledged any more, although the next one would go well."""

import errno
import random
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import uvloop

from common.errors import SixfoldError
from common.ids import ShardAddress
from tests.disks.crashing import CrashDisk
from tests.disks.faulty import EIO, ENOSPC, Fails, Fault, FaultyDisk, Short, Torn
from tests.disks.layered import Call
from tests.disks.recording import RecordingDisk
from tests.stores import make_shard
from tests.torture.crash_node import (
    Broken,
    Event,
    Fates,
    History,
    IndexFiles,
    RunningNode,
    check_allowed,
    index_files,
    place_index,
)
from tests.torture.crash_programs import (
    OPERATIONS,
    PASTS,
    Program,
    Run,
    name_of,
    refused,
    reopen,
)
from tests.torture.outcome import Outcome, quiet, scaled, scratch

ROW = 5
PROMISE = "a disk that fails once costs nothing acknowledged, and an error of fsync is final"
FAULTS = 10_000
LENGTHS = (3, 6)  # of programs
NONE = Fates()
AnyRun = TypeVar("AnyRun", bound=Run)

SYNCS = ("fsync", "fdatasync", "fsync_dir")
FAILS: tuple[Fault, ...] = (EIO, ENOSPC)
MANNERS: dict[str, tuple[Fault, ...]] = {
    **dict.fromkeys(SYNCS, FAILS),
    "pwritev": (EIO, ENOSPC, Short(1), Short(4096), Torn(()), Torn((0,)), Torn((1, 2, 5))),
    "open": (EIO, Fails(errno.EMFILE)),
    "preadv": (EIO, Fails(errno.ENODATA)),
    **dict.fromkeys(("truncate", "rename", "names", "space"), (EIO,)),
}


@dataclass(frozen=True, slots=True)
class Failure:
    """The `at`th call of `method` in this program goes wrong."""

    past: str
    program: Program
    seed: int
    method: str
    fault: Fault
    at: int
    path: Path

    @property
    def is_final(self) -> bool:
        """A sync of what holds shards. That of where scrub stands, say, is not."""
        return self.method in SYNCS and any(
            folder in self.path.parts for folder in ("volumes", "quarantine")
        )

    def __str__(self) -> str:
        what = f"{self.fault} at {self.method} {self.at}"
        return f"{self.past}: {name_of(self.program)}, {what}, seed {self.seed}"


@dataclass
class Tally:
    programs: int = 0
    faults: int = 0
    syncs: int = 0
    refused: int = 0
    late: int = 0
    violations: list[str] = field(default_factory=list)

    def figure(self) -> str:
        return (
            f"{self.faults:,} faults in {self.programs:,} programs, {self.refused:,} refusals, "
            f"{self.syncs:,} syncs failed with {self.late} acknowledgements after them, "
            f"{len(self.violations):,} violations"
        )


def main(scale: float, seed: int) -> Outcome:
    """Programs, and in each of them every call with every fault, until there were enough."""
    rng, tally = random.Random(seed), Tally()
    with scratch("disk", in_memory=True) as root, quiet():
        (root / "data").mkdir()
        while tally.faults < scaled(FAULTS, scale):
            uvloop.run(_fail_everywhere(root, rng, tally))
    return Outcome(tally.figure(), tally.violations)


async def _fail_everywhere(root: Path, rng: random.Random, tally: Tally) -> None:
    operations = [operation for operation in OPERATIONS if operation is not refused]
    past = rng.choice(list(PASTS))
    program = tuple(rng.choices(operations, k=rng.randint(*LENGTHS)))
    tally.programs += 1
    seen = Counter[str]()
    for call in await _calls(root, past, program):
        if call.name in MANNERS:
            seen[call.name] += 1
            fault, number = rng.choice(MANNERS[call.name]), seen[call.name]
            seed = rng.randrange(1 << 32)
            failure = Failure(past, program, seed, call.name, fault, number, call.path)
            tally.faults += 1
            try:
                await _Failing(root, failure, tally).run()
            except (Broken, SixfoldError, OSError) as error:
                tally.violations.append(f"{failure}: {error!r}")


async def _calls(root: Path, past: str, program: Program) -> list[Call]:
    """What the program asks of the disk when all goes well."""
    async with _begun(root, past, Run) as run:
        before = len(_recorded(run).calls)
        for operation in program:
            await operation(run)
        return _recorded(run).calls[before:]


def _recorded(run: Run) -> RecordingDisk:
    assert isinstance(run.faults.inner, RecordingDisk)
    return run.faults.inner


@asynccontextmanager
async def _begun(root: Path, past: str, kind: type[AnyRun]) -> AsyncIterator[AnyRun]:
    """A new node that has had its past. It ends with the block."""
    place_index(root / "data", {})
    disk = CrashDisk(root)
    faults = FaultyDisk(RecordingDisk(disk))
    run = kind(disk, faults, RunningNode(faults, root / "data"), History())
    await run.node.start()
    try:
        for operation in PASTS[past]:
            await operation(run)
        yield run
    finally:
        await run.node.stop()


class _Refusable(Run):
    """Calls may be refused: then each shard is as it was, or as it should have become, or on the
    way, as far as one can know after a restart. `late` counts what was acknowledged all the same
    once the store was read-only."""

    refusals = 0
    late = 0

    async def call(
        self,
        work: Awaitable[object],
        after: Mapping[ShardAddress, Fates],
        until: Mapping[ShardAddress, Fates] = {},
        told: bool = True,
    ) -> None:
        begun, may_write = len(self.disk.steps), self.node.store.failure is None
        try:
            await work
        except (SixfoldError, OSError):
            self.refusals += 1
            before = self.history.allowed(begun)
            perhaps = {a: before[a] | after[a] | until.get(a, NONE) for a in after}
            self.history.note(Event(begun, len(self.disk.steps), perhaps))
        else:
            self.late += told and bool(after) and not may_write
            self.history.note(Event(begun, len(self.disk.steps), after))


class _Failing:
    """One fault, and what it leaves."""

    def __init__(self, root: Path, failure: Failure, tally: Tally) -> None:
        self.root, self.failure, self.tally = root, failure, tally
        self.chance = random.Random(failure.seed)

    async def run(self) -> None:
        async with _begun(self.root, self.failure.past, _Refusable) as run:
            await self._fail(run)
        index = index_files(self.root / "data")
        await self._look(run, run.disk.killed(len(run.disk.steps)), index)
        lost = run.disk.lost_power(len(run.disk.steps), self.chance)
        await self._look(run, lost, self.chance.choice((index, {})))

    async def _fail(self, run: _Refusable) -> None:
        run.faults.script(self.failure.method, self.failure.fault, self.failure.at)
        for operation in self.failure.program:
            due = bool(run.faults.unused)
            await (self._reopen(run) if operation is reopen else operation(run))
            if due and not run.faults.unused and operation is not reopen:
                self._check_final(run)
        self.tally.refused += run.refusals
        self.tally.late += run.late
        if run.late:
            raise Broken("acknowledged after a sync had failed")
        await self._check(run, run.node, fresh=False)

    def _check_final(self, run: Run) -> None:
        """The fault has just come."""
        if self.failure.is_final:
            self.tally.syncs += 1
            if run.node.store.failure is None:
                raise Broken("the error of a sync was not final")

    async def _reopen(self, run: Run) -> None:
        """If it does not start for an error of the disk, it is started again."""
        await run.node.stop()
        try:
            await run.node.start()
        except (OSError, SixfoldError):
            await run.node.start()

    async def _look(self, run: Run, disk: CrashDisk, index: IndexFiles) -> None:
        """At what the next start finds, which takes writes again."""
        place_index(self.root / "data", index)
        node = await RunningNode(disk, self.root / "data").start()
        try:
            await self._check(run, node)
            if node.store.failure is not None:
                raise Broken(f"it does not take writes again: {node.store.failure}")
            await node.store.append([make_shard(1, self.failure.seed)])
        finally:
            await node.stop()

    @staticmethod
    async def _check(run: Run, node: RunningNode, fresh: bool = True) -> None:
        fates = await node.fates(run.history.shards, fresh)
        check_allowed(node, fates, run.history, len(run.disk.steps))

"""A power loss or a kill at every step that the disk makes, in every short program of a store:
what was acknowledged is there, what was deleted stays deleted, and the store goes on.

The model of the disk drops what was not synced (tests/disks/filesystem.py). Checked for each crash:
recovery with the index as it was, older or gone; the same again after a crash in recovery; and what
the recovered store acknowledges, after the next power loss.
"""

import random
import sys
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import NamedTuple

import uvloop

from common.errors import SixfoldError
from common.ids import ShardAddress
from common.shards import ShardRecord
from common.upkeep import Why
from tests.disks.crashing import CrashDisk
from tests.stores import make_shard
from tests.torture.crash_node import (
    ANY,
    Broken,
    Fate,
    IndexFiles,
    RunningNode,
    check_allowed,
    index_files,
    named,
    place_index,
)
from tests.torture.crash_programs import (
    LARGE_BYTES,
    LONGEST,
    SMALL_BYTES,
    Program,
    Trace,
    name_of,
    program_of,
    programs,
    run_program,
)
from tests.torture.outcome import Outcome, quiet, scratch
from tests.torture.spread import Share, spread

ROW = 2
PROMISE = "a power loss at any step loses nothing that was acknowledged"
FatesNow = Mapping[ShardAddress, Fate]
INDEXES = ("as it was", "older", "gone")
ROUNDS = 2 * len(INDEXES)  # crashes at each step: a power loss and a kill with each index
FEW_ROUNDS = (0, len(INDEXES))  # a power loss and a kill; the index goes by the step


@dataclass(frozen=True, slots=True)
class Crash:
    """Its text is all that is needed to have it again: `python -m tests.torture.crashes TEXT`."""

    trace: Trace
    after: int
    seed: int
    round: int

    @property
    def index(self) -> str:
        return INDEXES[self._manner % len(INDEXES)]

    @property
    def is_kill(self) -> bool:
        return self._manner >= len(INDEXES)

    @property
    def _manner(self) -> int:
        """Each round another one, and each step begins with another one."""
        return (self.after + self.round) % ROUNDS

    def __str__(self) -> str:
        trace = self.trace
        return f"{self.seed}/{trace.past}/{name_of(trace.program)}/{self.after}/{self.round}"

    @property
    def told(self) -> str:
        how = "kill" if self.is_kill else "power loss"
        return f"{self}: {how} after step {self.after}, index {self.index}"


@dataclass
class Tally:
    programs: int = 0
    steps: int = 0
    crashes: int = 0
    violations: list[str] = field(default_factory=list)

    def add(self, other: "Tally") -> None:
        self.programs += other.programs
        self.steps += other.steps
        self.crashes += other.crashes
        self.violations += other.violations

    def figure(self) -> str:
        counted = f"{self.programs:,} programs, {self.steps:,} steps, {self.crashes:,} crashes"
        return f"{counted}, {len(self.violations):,} violations"


class Chosen(NamedTuple):
    """What is run, and with which crashes at each step of the disk (see Crash.round)."""

    past: str
    program: Program
    rounds: Sequence[int]


def main(scale: float, seed: int) -> Outcome:
    """`scale` thins out the programs of several operations, and the rounds at each step."""
    chosen = len(list(_chosen(scale, random.Random(seed))))
    return _told(spread(partial(_share, scale, seed), chosen))


def _share(scale: float, seed: int, share: Share) -> Tally:
    return _crash(share.cases(_chosen(scale, random.Random(seed))), seed)


def crash_all(chosen: Iterable[Chosen], seed: int) -> Outcome:
    return _told([_crash(chosen, seed)])


def _crash(chosen: Iterable[Chosen], seed: int) -> Tally:
    with scratch("crashes", in_memory=True) as root, quiet():
        return uvloop.run(_run(root, chosen, seed))


def _told(tallies: Sequence[Tally]) -> Outcome:
    total = Tally()
    for tally in tallies:
        total.add(tally)
    return Outcome(total.figure(), total.violations)


async def _run(root: Path, chosen: Iterable[Chosen], seed: int) -> Tally:
    tally = Tally()
    (root / "data").mkdir()
    for past, program, rounds in chosen:
        trace = await _traced(root, past, program, seed)
        tally.programs += 1
        for after in range(trace.first, len(trace.steps) + 1):
            tally.steps += 1
            for number in rounds:
                tally.crashes += 1
                crash = Crash(trace, after, seed, number)
                try:
                    await _check(root, crash)
                except (Broken, SixfoldError, OSError) as error:
                    tally.violations.append(f"{crash.told}: {error}")
    return tally


async def _traced(root: Path, past: str, program: Program, seed: int) -> Trace:
    chance = random.Random(f"{seed} {past} {name_of(program)}")
    flush = [chance.random() < 0.5 for _ in range(3)]
    place_index(root / "data", {})
    return await run_program(root, past, program, flush)


def _chosen(scale: float, chance: random.Random) -> Iterator[Chosen]:
    """All programs of one operation, and of the longer ones a share. The longest, of which there
    are most, get fewer crashes."""
    share = {0: 1.0, 1: 1.0, 2: min(1.0, 10 * scale), 3: scale}
    rounds = range(max(1, round(ROUNDS * scale)))
    for past, longest in LONGEST.items():
        for length in range(longest + 1):
            for program in programs(length):
                if chance.random() < share[length]:
                    few = length > 2 and len(rounds) > len(FEW_ROUNDS)
                    yield Chosen(past, program, FEW_ROUNDS if few else rounds)


async def _check(root: Path, crash: Crash) -> None:
    """Raises Broken, or whatever keeps the node from starting."""
    chance, history = random.Random(str(crash)), crash.trace.history
    disk = crash.trace.disk(root)
    left = disk.killed(crash.after) if crash.is_kill else disk.lost_power(crash.after, chance)
    begun, index = len(left.steps), _index(crash, chance)
    async with _running(root, left, index) as node:
        found = await node.fates(history.shards)
        recovered = len(left.steps)
        check_allowed(node, found, history, crash.after)
        later = index_files(root / "data")
        shards, expected = await _go_on(node, history.shards, found)
    in_recovery = left.lost_power(chance.randint(begun, recovered), chance)
    async with _running(root, in_recovery, chance.choice((index, {}))) as node:
        check_allowed(node, await node.fates(history.shards), history, crash.after)
    for after, wanted in ((recovered, found), (done := len(left.steps), expected)):
        lost = left.lost_power(after, chance)
        async with _running(root, lost, chance.choice((later, {}))) as node:
            changed = list(_changed(crash, wanted, await node.fates(shards)))
            if changed:
                when = "after it went on" if after == done else "after recovery"
                raise Broken(f"the second crash, {when}: {', '.join(changed)}")


def _changed(crash: Crash, wanted: FatesNow, found: FatesNow) -> Iterator[str]:
    """What has become of shards that nobody asked for. A file that was removed from quarantine may
    come back while nobody waited for that; and whether rot was found, while it was being looked at,
    is not settled by a recovery."""
    history = crash.trace.history
    allowed = history.allowed(crash.after)
    for address, before in wanted.items():
        may_be = {before}
        if before is Fate.GONE:
            may_be |= history.absent(address)
        if allowed.get(address) == ANY and before is not Fate.SERVED:
            may_be |= ANY
        if found[address] not in may_be:
            yield f"{named(address)} was {before} and is {found[address]}"


async def _go_on(
    node: RunningNode, shards: Mapping[ShardAddress, ShardRecord], found: FatesNow
) -> tuple[Mapping[ShardAddress, ShardRecord], FatesNow]:
    """Use the recovered store: all shards that have been, and what they have come to now."""
    more = [make_shard(SMALL_BYTES + 1), make_shard(LARGE_BYTES + 1)]
    known = {**shards, **{shard.address: shard for shard in more}}
    expected = {**found, **{shard.address: Fate.SERVED for shard in more}}
    await node.store.append(more)
    for gone in sorted(a for a, fate in found.items() if fate is Fate.SERVED)[:1]:
        await node.store.delete([gone])
        expected[gone] = Fate.GONE
    quarantine = node.store.upkeep.quarantine
    orphans = [kept.address for kept in quarantine.page(None, 1) if kept.why is Why.ORPHAN]
    if await quarantine.restore(orphans) != len(orphans):
        raise Broken("an orphan cannot be taken back")
    expected.update(dict.fromkeys(orphans, Fate.SERVED))
    if await node.fates(known) != expected:
        raise Broken("the recovered store does not take what it acknowledges")
    return known, expected


def _index(crash: Crash, chance: random.Random) -> IndexFiles:
    indexes = crash.trace.indexes[: crash.after + 1]
    if crash.index == "gone":
        return {}
    return indexes[-1] if crash.index == "as it was" else chance.choice(indexes)


@asynccontextmanager
async def _running(root: Path, disk: CrashDisk, index: IndexFiles) -> AsyncIterator[RunningNode]:
    place_index(root / "data", index)
    node = await RunningNode(disk, root / "data").start()
    try:
        yield node
    finally:
        await node.stop()


async def _again(root: Path, text: str) -> None:
    """Raises what the crash of this text raises."""
    seed, past, names, after, number = text.split("/")
    program = program_of(names)
    (root / "data").mkdir()
    trace = await _traced(root, past, program, int(seed))
    for step in trace.steps[: int(after)]:
        print(str(step)[:100])
    await _check(root, Crash(trace, int(after), int(seed), int(number)))


if __name__ == "__main__":
    with scratch("crashes", in_memory=True) as folder:
        uvloop.run(_again(folder, sys.argv[1]))

"""Every process is wrong about the time of day by up to a day, and clocks jump while it runs: no
grace period ends early, no lease has two holders."""

import asyncio
import random
from pathlib import Path

from common.errors import SessionLost
from common.ids import ContentId
from coordinator.metadata import Metadata, open_metadata
from tests.metadata_parts import GRACE_S, Clock, segment, single
from tests.torture.outcome import Outcome, quiet, scaled, scratch

ROW = 15
PROMISE = "clocks that differ by a day end no grace period and no lease early"

ROUNDS = 300
DAY_S = 86_400
LEASE_S, STEP_S = 15, 5  # a lease of the job; seconds that pass at a time


class Skewed(Clock):
    """Of a process that is wrong about the time of day, as the test moves it. The rest is the
    machine's."""

    def __init__(self, machine: Clock, error_s: float) -> None:
        self.machine, self.error_s, self.boot = machine, error_s, machine.boot

    def __call__(self) -> float:
        return self.machine()

    def wall(self) -> float:
        return self.machine.wall() + self.error_s


def main(scale: float, seed: int) -> Outcome:
    """Each round is a database of its own, with two to four processes."""
    rounds, rng = scaled(ROUNDS, scale), random.Random(seed)
    violations = list[str]()
    with scratch("clocks", in_memory=True) as directory, quiet():
        for number in range(rounds):
            found = asyncio.run(_one_round(directory / str(number), rng))
            violations += [f"round {number}: {fault}" for fault in found]
    return Outcome(f"{rounds} sets of clocks, {len(violations)} violations", violations)


async def _one_round(directory: Path, rng: random.Random) -> list[str]:
    machine = Clock()
    clocks = [Skewed(machine, _error_s(rng)) for _ in range(rng.randint(2, 4))]
    processes = [open_metadata(directory, "", GRACE_S, clock) for clock in clocks]
    for process in processes:
        await process.start()
    try:
        return await _violations(machine, clocks, processes, rng)
    except SessionLost:
        return ["a session ended early"]
    finally:
        for process in processes:
            await process.close()


def _error_s(rng: random.Random) -> float:
    return rng.choice([0, rng.uniform(-DAY_S, DAY_S), DAY_S, -DAY_S])


async def _violations(
    machine: Clock, clocks: list[Skewed], processes: list[Metadata], rng: random.Random
) -> list[str]:
    """A content loses its pin; the job changes hands as its holders fall silent."""
    stored, found = segment(processes[0]), list[str]()
    await processes[0].commit_content(single(stored))
    await rng.choice(processes).unpin(ContentId(stored.id))
    holder, held_until_s = None, 0.0
    for at_s in range(0, GRACE_S + STEP_S, STEP_S):
        if rng.random() < 0.2:
            rng.choice(clocks).error_s = _error_s(rng)
        asking = rng.choice(processes)
        await asking._begin_session()
        if await asking.take_lease("job", LEASE_S):
            if asking is not holder and at_s < held_until_s:
                found.append(f"after {at_s} s a lease has two holders")
            holder, held_until_s = asking, at_s + LEASE_S
        if collected := await rng.choice(processes).collect(10):
            return found if at_s >= GRACE_S else [*found, f"{collected} collected after {at_s} s"]
        machine.now_s += STEP_S
    return [*found, "never collected"]

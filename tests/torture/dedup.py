"""The same bytes are stored, deleted and collected by two coordinators at once, with the outbox and
the sweep of both at work, in random orders of all their steps.

At no step may a shard be absent that a layout names. In the end every acknowledged content that
nobody may have deleted since is read back, and nothing lies on nodes that nothing refers to.
"""

import logging
import random
import sqlite3
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager, closing
from functools import partial
from pathlib import Path
from typing import NamedTuple
from unittest.mock import patch

import uvloop

from coordinator import sweep
from coordinator.metadata import open_metadata
from coordinator.metadata.database import SQLITE_PRAGMAS
from tests.memory_cluster import MemoryCluster
from tests.metadata_parts import GRACE_S, Clock
from tests.reports import incoming
from tests.torture.dedup_checks import World
from tests.torture.dedup_schedule import NODES, Schedule
from tests.torture.outcome import Outcome, scaled, scratch
from tests.torture.spread import Share, spread

ROW = 8
PROMISE = "deletion never takes what an upload of the same bytes relies on"
SCHEDULES = 100_000


class _Tally(NamedTuple):
    steps: int
    stored: int
    violations: list[str]


def main(scale: float, seed: int) -> Outcome:
    wanted = scaled(SCHEDULES, scale)
    tallies = spread(partial(_share, wanted, seed), wanted)
    violations = [said for tally in tallies for said in tally.violations]
    broken = len({violation.split(":")[0] for violation in violations})
    figure = (
        f"{wanted:,} schedules of {sum(tally.steps for tally in tallies):,} steps, "
        f"{sum(tally.stored for tally in tallies):,} acknowledged, "
        f"{broken} acknowledged and unreadable"
    )
    return Outcome(figure, violations)


def _share(wanted: int, seed: int, share: Share) -> _Tally:
    with scratch("dedup") as directory:
        return uvloop.run(_run(directory, share.cases(range(wanted)), seed))


async def _run(directory: Path, numbers: Iterable[int], seed: int) -> _Tally:
    steps, stored, violations = 0, 0, list[str]()
    async with _world(directory) as world:
        for number in numbers:
            schedule = Schedule(world, random.Random(f"{seed} {number}"))
            await schedule.run()
            steps += len(schedule.gates.done)
            stored += schedule.stored
            violations += [f"schedule {number}: {said}" for said in schedule.violations]
    return _Tally(steps, stored, violations)


@asynccontextmanager
async def _world(directory: Path) -> AsyncIterator[World]:
    """Without fsync: no power is lost here."""
    clock, nodes = Clock(), MemoryCluster(NODES)
    with (
        patch.dict(SQLITE_PRAGMAS, synchronous="off"),
        patch.object(sweep, "PAGE_REST_S", 0),
        patch.object(logging.getLogger("coordinator"), "level", logging.CRITICAL),
    ):
        a, b = (open_metadata(directory, "", GRACE_S, clock) for _ in range(2))
        for metadata in (a, b):
            await metadata.start()
        for number in nodes.stores:
            await a.save_report(incoming(number))
        database = sqlite3.connect(directory / "metadata.db", isolation_level=None)
        with closing(database) as direct:
            yield World(clock, nodes, (a, b), direct)
        for metadata in (a, b):
            await metadata.close()

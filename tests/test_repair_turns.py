"""Whose turn it is in the repair queue: nothing that can be mended waits behind what cannot."""

import math
from collections import Counter
from collections.abc import Collection
from dataclasses import replace
from functools import partial
from types import SimpleNamespace
from typing import Any, cast

import pytest

from common.units import MIB
from coordinator import repair
from coordinator.mend import Mended, Mender
from coordinator.metadata import Metadata, StoredSegment
from coordinator.metadata.packing import mask_of
from coordinator.metadata.repair_queue import due_repairs
from coordinator.metadata.rows import Seen
from coordinator.metadata.sql import Sql
from coordinator.metadata.writes import insert_segment
from coordinator.repair import RepairWorker
from coordinator.throttle import Throttle
from tests.metadata_parts import Clock, notice, segment

MENDABLE, HOPELESS = range(6, 10), range(6)


class PretendedMender:
    """Mends what is in `mendable`, and of `partly` all but one shard, whose node is away; of the
    rest it can read a part. `turns` says who came when."""

    def __init__(self, mendable: set[bytes], partly: Collection[bytes] = ()) -> None:
        self.mendable, self.partly, self.turns = mendable, partly, list[bytes]()

    async def mend(self, stored: StoredSegment) -> Mended:
        self.turns.append(stored.id)
        if stored.id in self.mendable:
            return Mended(6, Seen(), read_bytes=9 * stored.shard_bytes, layout=stored.layout)
        if stored.id in self.partly:
            written_bytes = stored.shard_bytes
            return Mended(8, Seen(), 1, written_bytes=written_bytes, layout=stored.layout)
        left = 9 - stored.known_bad.bit_count()
        seen = Seen(bad=stored.known_bad)
        return Mended(left, seen, 1, read_bytes=2 * stored.shard_bytes, hopeless=left < 6)


class Bytes(Throttle):
    """Only counts."""

    def __init__(self) -> None:
        super().__init__(math.inf)
        self.spent = 0

    async def spend(self, size_bytes: int) -> None:
        self.spent += size_bytes


async def queued(metadata: Metadata, bad: int, count: int = 1) -> list[bytes]:
    """The ids of so many full segments that are in the queue with that many bad shards each."""
    made = [replace(segment(metadata), size_bytes=6 * MIB) for _ in range(count)]
    for stored in made:
        add = partial(insert_segment, layouts=metadata._layouts, segment=stored)
        await metadata._write(add)
        await metadata.queue_repair(notice(stored, *range(bad)))
    return [bytes(stored.id) for stored in made]


def worker(metadata: Metadata, clock: Clock, mender: PretendedMender) -> RepairWorker:
    """Of a cluster in which no node comes or goes."""
    members = SimpleNamespace(nodes={}, targets=lambda size: {}, count=lambda state: 0)
    members.is_leaving = members.is_gone = lambda number: False
    members.zone_of = str
    services: Any = SimpleNamespace(
        metadata=metadata,
        cluster=SimpleNamespace(membership=members),
        codec=SimpleNamespace(k=6, n=9),
    )
    made = RepairWorker(services, Bytes(), clock)
    made._mender = cast(Mender, mender)
    return made


async def run(job: RepairWorker, clock: Clock, for_s: float) -> None:
    until_s = clock.now_s + for_s
    while clock.now_s < until_s:
        more = await job.step()
        clock.now_s += 0.1 if more else job.rest_s


@pytest.mark.parametrize("stuck_bad", [4, 3])
async def test_what_cannot_be_mended_does_not_starve_what_can(
    metadata: Metadata, clock: Clock, stuck_bad: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """More than have a turn before the first are due again: hopeless, or waiting for a node."""
    monkeypatch.setattr(repair, "LAST_DELAY_S", 20)
    stuck = await queued(metadata, stuck_bad, 150)
    mender = PretendedMender(set())
    job = worker(metadata, clock, mender)
    await run(job, clock, 100)
    (urgent,) = await queued(metadata, 2)
    mender.mendable.add(urgent)
    mender.turns.clear()
    await run(job, clock, 3)
    assert urgent in mender.turns[:2]
    assert set(mender.turns) & set(stuck)


async def test_what_can_be_mended_comes_first_and_hopeless_ones_have_a_small_share(
    metadata: Metadata, clock: Clock
) -> None:
    hopeless = await queued(metadata, 5, 50)
    good = await queued(metadata, 1, 60)
    urgent = await queued(metadata, 3, 2)
    mender = PretendedMender({*good, *urgent})
    await run(worker(metadata, clock, mender), clock, 3)
    assert set(mender.turns[:2]) == set(urgent)
    turns = Counter(id_ in hopeless for id_ in mender.turns)
    assert turns[False] == 62
    first = mender.turns[: 2 + 60]
    assert 0 < sum(id_ in hopeless for id_ in first) <= 3


async def test_those_that_wait_for_a_node_take_turns_with_fresh_ones(metadata: Metadata) -> None:
    waiting = await queued(metadata, 3, 2)
    for due in await metadata.mending.due_repairs(MENDABLE, 10):
        await metadata.mending.postpone(due.stored, None, "a node is away", 0)
    fresh = [*await queued(metadata, 2), *await queued(metadata, 1)]
    turns = [bytes(due.stored.id) for due in await metadata.mending.due_repairs(MENDABLE, 10)]
    assert turns == [fresh[0], waiting[0], fresh[1], waiting[1]]
    assert await metadata.mending.due_repairs(HOPELESS, 10) == []


async def test_a_node_that_comes_wakes_what_can_be_mended_first(metadata: Metadata) -> None:
    ids = [(await queued(metadata, bad))[0] for bad in (5, 4, 3, 1)]
    for counts in (HOPELESS, MENDABLE):
        for due in await metadata.mending.due_repairs(counts, 10):
            await metadata.mending.postpone(due.stored, None, "x", 600)
    await metadata.mending.try_again_now(6, 3)
    woken = await metadata.mending.due_repairs(range(10), 10)
    assert {bytes(due.stored.id) for due in woken} == {ids[0], ids[2], ids[3]}


async def test_what_gets_worse_or_better_with_a_node_is_as_good_as_new(metadata: Metadata) -> None:
    await queued(metadata, 1)
    (due,) = await metadata.mending.due_repairs(MENDABLE, 10)
    await metadata.mending.postpone(due.stored, None, "x", 600)
    (use,) = await metadata.layout_uses(0, 10)
    queue = metadata.mending.queue_layouts
    await queue([(use.id, 0, "x")])  # nothing new: due, among those that were tried before
    (due,) = await metadata.mending.due_repairs(MENDABLE, 10)
    assert due.due_at_s > 0
    await queue([(use.id, mask_of([2, 3]), "x")])
    (due,) = await metadata.mending.due_repairs(MENDABLE, 10)
    assert (due.due_at_s, due.survivors) == (0, 6)


async def test_only_what_was_read_is_paid_for(metadata: Metadata, clock: Clock) -> None:
    await queued(metadata, 4)
    (good,) = await queued(metadata, 1)
    job = worker(metadata, clock, PretendedMender({good}))
    await job.step()
    assert isinstance(job._throttle, Bytes)
    assert job._throttle.spent == 6 * MIB + 2 * MIB


async def test_repair_does_not_rest_while_it_helps_though_nothing_gets_whole(
    metadata: Metadata, clock: Clock
) -> None:
    """As when one node is lost while another is away."""
    partly = await queued(metadata, 1, 12)
    mender = PretendedMender(set(), partly)
    job = worker(metadata, clock, mender)
    while await job.step():
        clock.now_s += 0.1
    assert sorted(mender.turns) == sorted(partly)
    state = (await metadata.job_states())["repair"].state
    assert (state["segments"], state["bytes"]) == (12, 12 * 6 * MIB)
    assert state["bytes_per_s"] > 0
    assert state["left_s"] is not None


async def test_no_look_at_the_queue_reads_all_of_it(metadata: Metadata) -> None:
    plans = await metadata._read(
        lambda sql: [sql.rows("EXPLAIN QUERY PLAN " + text, *values) for text, values in asked(sql)]
    )
    details = [row[3] for plan in plans for row in plan]
    assert details
    assert not [detail for detail in details if detail.startswith("SCAN") or "TEMP" in detail]


def asked(sql: Any) -> list[tuple[str, tuple[object, ...]]]:
    """The statements of a look at what is due."""
    seen = list[tuple[str, tuple[object, ...]]]()

    class Listening:
        def rows(self, text: str, *values: object) -> list[tuple[object, ...]]:
            seen.append((text, values))
            found: list[tuple[object, ...]] = sql.rows(text, *values)
            return found

    due_repairs(cast(Sql, Listening()), MENDABLE, 32)
    return seen

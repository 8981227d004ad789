"""A delete may be on its way twice: places where shards were deleted rest before they are used."""

from dataclasses import replace

import pytest

from common.failpoints import Point, armed
from common.ids import ContentId
from coordinator import deleting
from coordinator.deleting import OutboxWorker
from coordinator.metadata import DeleteReason, Metadata, ShardsOnNode
from coordinator.metadata.rows import UNUSED_S
from tests.memory_cluster import MemoryCluster
from tests.metadata_parts import (
    GRACE_S,
    Clock,
    due_deletes,
    finish_deletes,
    segment,
    seize_lease,
    single,
)
from tests.reports import incoming

MOVED = {2: 12}  # shard 2 to node 12


async def test_a_place_rests_after_a_delete(metadata: Metadata, clock: Clock) -> None:
    stored = segment(metadata)
    await metadata.commit_content(single(stored))
    asked_at_s = (await metadata.mending.forbidden(stored)).asked_at_s
    await metadata.add_deletes([ShardsOnNode(12, (stored.address(2),))], DeleteReason.LEFTOVER)
    (row,) = await due_deletes(metadata)
    await finish_deletes(metadata, [row])
    clock.now_s += UNUSED_S - 1
    await metadata._begin_session()
    forbidden = await metadata.mending.forbidden(stored)
    assert forbidden.places == {(2, 12)}
    assert not await metadata.mending.switch_layout(stored, MOVED, asked_at_s)
    await finish_deletes(metadata, await due_deletes(metadata))
    clock.now_s += UNUSED_S
    forbidden = await metadata.mending.forbidden(stored)
    assert forbidden.places == frozenset()
    assert await metadata.mending.switch_layout(stored, MOVED, forbidden.asked_at_s)


async def test_who_asked_too_long_ago_must_ask_again(metadata: Metadata, clock: Clock) -> None:
    """A mender that was paused: what was deleted meanwhile may be forgotten by now."""
    stored = segment(metadata)
    await metadata.commit_content(single(stored))
    asked_at_s = (await metadata.mending.forbidden(stored)).asked_at_s
    clock.now_s += UNUSED_S
    assert not await metadata.mending.switch_layout(stored, MOVED, asked_at_s)
    known = await metadata.find_segment(stored.id)
    assert known is not None
    assert known.stored == replace(stored)


async def test_places_of_a_segment_that_is_gone_are_forgotten_at_once(
    metadata: Metadata, clock: Clock
) -> None:
    stored = segment(metadata)
    await metadata.commit_content(single(stored))
    await metadata.unpin(ContentId(stored.id))
    clock.now_s += GRACE_S
    await metadata.collect(10)
    await finish_deletes(metadata, await due_deletes(metadata))
    rows = await metadata._read(lambda sql: sql.rows("SELECT count(*) FROM deleted_place"))
    assert rows == [(0,)]


async def test_rows_that_were_read_before_a_pause_are_read_again(
    metadata: Metadata, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another process may have done what they say, and repair may have put a shard there since."""
    times = iter([100.0, 100.0 + deleting.FRESH_S + 1])
    nodes, stored = MemoryCluster(), segment(metadata)
    await metadata.save_report(incoming(1))
    await metadata.add_deletes([ShardsOnNode(1, (stored.address(0),))], DeleteReason.LEFTOVER)
    monkeypatch.setattr(deleting, "monotonic", lambda: next(times, 200.0))
    worker = OutboxWorker(metadata, nodes.cluster)
    await seize_lease(metadata)
    reads, sent = [], []
    with (
        armed(Point.DELETES_READ, lambda: reads.append(1)),
        armed(Point.DELETES_SENT, lambda: sent.append(1)),
    ):
        await worker.step()
    assert (len(reads), len(sent)) == (2, 1)
    assert await due_deletes(metadata) == []

"""The metadata database, on real SQLite files."""

import asyncio
from dataclasses import replace

import pytest

from common.errors import (
    SegmentGone,
    SessionLost,
)
from common.ids import ContentId
from coordinator.metadata import (
    Committed,
    Metadata,
    ShardsOnNode,
    writes,
)
from coordinator.metadata.store import SESSION_LEASE_S
from tests.metadata_parts import NINE, Clock, due_deletes, notice, segment, several, single
from tests.reports import incoming


async def test_a_content_of_one_segment(metadata: Metadata, clock: Clock) -> None:
    stored = segment(metadata)
    assert await metadata.find_content(ContentId(stored.id)) is None
    assert (await metadata.commit_content(single(stored))).new
    manifest = await metadata.find_content(ContentId(stored.id))
    assert manifest is not None
    assert manifest.segments == (stored,)
    assert (manifest.size_bytes, manifest.created_at_s) == (4096, int(clock.now_s))
    known = await metadata.find_segment(stored.id)
    assert known is not None
    assert known.stored == stored


async def test_a_content_of_several_segments_keeps_their_order(metadata: Metadata) -> None:
    one, two = segment(metadata), segment(metadata)
    new = several(metadata, [one, two, one, one, two])
    assert (await metadata.commit_content(new)).new
    manifest = await metadata.find_content(new.id)
    assert manifest is not None
    assert manifest.segments == (one, two, one, one, two)


async def test_the_same_content_again_is_not_new(metadata: Metadata) -> None:
    stored = segment(metadata)
    assert (await metadata.commit_content(single(stored))).new
    assert not (await metadata.commit_content(replace(single(stored), written=[]))).new


async def test_whoever_commits_first_wins_and_the_other_is_deleted(metadata: Metadata) -> None:
    first = segment(metadata)
    second = replace(first, generation=metadata.new_generation(), layout=NINE[::-1])
    await asyncio.gather(
        metadata.commit_content(single(first)), metadata.commit_content(single(second))
    )
    manifest = await metadata.find_content(ContentId(first.id))
    assert manifest is not None
    assert manifest.segments == (first,)
    rows = await due_deletes(metadata)
    doomed = {address for row in rows for address in row.shards.addresses}
    assert doomed == {second.address(i) for i in range(9)}
    assert {(r.shards.node, r.shards.addresses[0].index) for r in rows} == {
        (node, index) for index, node in enumerate(second.layout)
    }


async def test_unconfirmed_shards_are_deleted_with_the_commit(metadata: Metadata) -> None:
    stored = segment(metadata, (*NINE[:8], 0))
    unconfirmed = ShardsOnNode(9, (stored.address(8),))
    await metadata.commit_content(replace(single(stored), unconfirmed=[unconfirmed]))
    assert [row.shards for row in await due_deletes(metadata)] == [unconfirmed]
    assert (await metadata.counts())["repair_queue"] == 1


async def test_a_segment_that_is_gone_cannot_be_relied_on(metadata: Metadata) -> None:
    stored = segment(metadata)
    with pytest.raises(SegmentGone):
        await metadata.commit_content(replace(single(stored), written=[]))
    await metadata.commit_content(single(stored))
    younger = replace(stored, generation=metadata.new_generation())
    with pytest.raises(SegmentGone):
        await metadata.commit_content(replace(single(younger), written=[]))


async def test_one_refusal_in_a_group_leaves_the_others(metadata: Metadata) -> None:
    good = [single(segment(metadata)) for _ in range(20)]
    bad = replace(single(segment(metadata)), written=[])
    changes = [metadata.commit_content(new) for new in [*good[:10], bad, *good[10:]]]
    outcomes = await asyncio.gather(*changes, return_exceptions=True)
    assert [type(o) for o in outcomes] == [Committed] * 10 + [SegmentGone] + [Committed] * 10
    for new in good:
        assert await metadata.find_content(new.id) is not None
    assert await metadata.find_content(bad.id) is None


async def test_a_failing_statement_fails_only_its_own_change(metadata: Metadata) -> None:
    good, bad = single(segment(metadata)), single(segment(metadata))
    broken = single(replace(bad.written[0], size_bytes=1 << 63))  # more than the database holds
    outcomes = await asyncio.gather(
        metadata.commit_content(good), metadata.commit_content(broken), return_exceptions=True
    )
    assert outcomes[0] == Committed(new=True)
    assert isinstance(outcomes[1], OverflowError)
    assert await metadata.find_content(good.id) is not None
    assert await metadata.find_segment(bad.written[0].id) is None


async def test_only_so_many_layouts_are_remembered(
    metadata: Metadata, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writes, "MAX_LAYOUTS", 8)
    layouts = [(first, *NINE[1:]) for first in range(10, 40)]
    for layout in [*layouts, layouts[-1], layouts[-2], layouts[0]]:
        await metadata.commit_content(single(segment(metadata, layout)))
    assert (await metadata.counts())["layout"] == 31  # the first was forgotten


async def test_a_session_that_ran_out_commits_nothing(metadata: Metadata, clock: Clock) -> None:
    stored = segment(metadata)
    clock.now_s += SESSION_LEASE_S + 1
    with pytest.raises(SessionLost):
        await metadata.commit_content(single(stored))
    assert await metadata.find_content(ContentId(stored.id)) is None


async def test_a_node_keeps_its_number(metadata: Metadata) -> None:
    first = (await metadata.save_report(incoming(1))).node
    other = (await metadata.save_report(incoming(2))).node
    moved = (await metadata.save_report(incoming(1, zone="west"))).node
    assert (first.number, moved.zone) == (moved.number, "west")
    assert other.number != first.number
    assert moved in await metadata.nodes()


async def test_repair_notices_of_a_segment_share_a_row(metadata: Metadata) -> None:
    stored = segment(metadata)
    await metadata.commit_content(single(stored))
    for index in (8, 7):
        await metadata.queue_repair(notice(stored, index))
    assert (await metadata.counts())["repair_queue"] == 1


async def test_a_lost_segment_is_healed_by_a_new_upload(metadata: Metadata) -> None:
    """Dedup must not refer to what is known to be unreadable."""
    lost = segment(metadata)
    await metadata.commit_content(single(lost))
    await metadata.queue_repair(notice(lost, 0, 4, 8))
    assert await metadata.find_segment(lost.id) is not None  # six are enough
    await metadata.queue_repair(notice(lost, 1))
    assert await metadata.find_segment(lost.id) is None
    again = replace(lost, generation=metadata.new_generation(), layout=NINE[::-1])
    assert not (await metadata.commit_content(single(again))).new
    manifest = await metadata.find_content(ContentId(lost.id))
    assert manifest is not None
    assert manifest.segments == (again,)
    deleted = {a for row in await due_deletes(metadata) for a in row.shards.addresses}
    assert deleted == {lost.address(i) for i in range(9)}
    assert (await metadata.counts())["repair_queue"] == 0
    known = await metadata.find_segment(lost.id)
    assert known is not None
    assert known.stored == again

"""Contents that nobody needs any more; and that nothing is searched for by reading all there is."""

from dataclasses import replace
from pathlib import Path

import pytest

from common.ids import ContentId
from coordinator.metadata import (
    Metadata,
    RepairNotice,
    open_metadata,
)
from coordinator.metadata.database import Sql
from coordinator.metadata.store import SESSION_LEASE_S
from tests.metadata_parts import GRACE_S, Clock, due_deletes, segment, several, single


async def test_deleting_waits_for_the_grace_period(metadata: Metadata, clock: Clock) -> None:
    stored = segment(metadata)
    new = several(metadata, [stored, segment(metadata)])
    await metadata.commit_content(new)
    assert await metadata.unpin(new.id)
    assert await metadata.find_content(new.id) is None
    assert not await metadata.unpin(new.id)
    assert await metadata.collect(10) == 0
    clock.now_s += GRACE_S + 1
    assert await metadata.collect(10) == 1
    rows = await due_deletes(metadata)
    assert len([a for row in rows for a in row.shards.addresses]) == 27  # with its segment list
    await metadata.finish_deletes([row.id for row in rows])
    counts = await metadata.counts()
    for table in ("content", "pin", "segment", "outbox_delete", "collect_queue"):
        assert counts[table] == 0


async def test_collecting_spares_shared_segments(metadata: Metadata, clock: Clock) -> None:
    shared = segment(metadata)
    alone, whole = several(metadata, [shared, segment(metadata)]), single(shared)
    await metadata.commit_content(whole)
    await metadata.commit_content(
        replace(alone, written=[s for s in alone.written if s is not shared])
    )
    await metadata.unpin(alone.id)
    clock.now_s += GRACE_S + 1
    await metadata.touch_segment(shared.id)
    assert await metadata.collect(10) == 0  # the shared one was touched just now
    clock.now_s += GRACE_S + 1
    assert await metadata.collect(10) == 1
    manifest = await metadata.find_content(whole.id)
    assert manifest is not None
    assert manifest.segments == (shared,)


async def test_a_content_put_again_is_not_collected(metadata: Metadata, clock: Clock) -> None:
    stored = segment(metadata)
    await metadata.commit_content(single(stored))
    await metadata.unpin(ContentId(stored.id))
    clock.now_s += SESSION_LEASE_S - 1
    assert await metadata.commit_content(replace(single(stored), written=[]))
    clock.now_s += GRACE_S + 1
    assert await metadata.collect(10) == 0
    assert await metadata.find_content(ContentId(stored.id)) is not None
    assert (await metadata.counts())["collect_queue"] == 0


async def test_collecting_takes_the_oldest_first_and_no_more_than_asked(
    metadata: Metadata, clock: Clock
) -> None:
    contents = [single(segment(metadata)) for _ in range(5)]
    for new in contents:
        await metadata.commit_content(new)
    for new in reversed(contents):
        clock.now_s += 1
        await metadata.unpin(new.id)
    clock.now_s += GRACE_S
    assert [await metadata.collect(2) for _ in range(4)] == [2, 2, 1, 0]


async def test_one_that_must_wait_does_not_hold_up_others(metadata: Metadata, clock: Clock) -> None:
    young, old = single(segment(metadata)), single(segment(metadata))
    for new in (young, old):
        await metadata.commit_content(new)
        await metadata.unpin(new.id)
    clock.now_s += GRACE_S
    await metadata.touch_segment(young.written[0].id)
    assert [await metadata.collect(1) for _ in range(3)] == [0, 1, 0]
    clock.now_s += GRACE_S
    assert await metadata.collect(1) == 1


async def test_a_segment_of_another_content_outlives_its_own(
    metadata: Metadata, clock: Clock
) -> None:
    shared = segment(metadata)
    whole, other = single(shared), several(metadata, [shared, segment(metadata)])
    await metadata.commit_content(whole)
    await metadata.commit_content(
        replace(other, written=[s for s in other.written if s is not shared])
    )
    assert other.segment_list is not None
    await metadata.commit_content(replace(single(other.segment_list), written=[]))
    for id_ in (whole.id, ContentId(other.segment_list.id)):
        await metadata.unpin(id_)
        assert await metadata.find_content(id_) is None
    clock.now_s += GRACE_S
    assert await metadata.collect(10) == 2
    assert await due_deletes(metadata) == []
    manifest = await metadata.find_content(other.id)
    assert manifest is not None
    assert manifest.segments == tuple(other.segments)


async def test_no_query_reads_a_whole_table(
    tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What takes longer the more is stored must not be in the way of anything."""
    run, plans = Sql._execute, set[tuple[str, str]]()

    def explained(sql: Sql, text: str, values: tuple[object, ...]) -> object:
        if text.startswith(("SELECT", "UPDATE", "DELETE")):
            for row in run(sql, "EXPLAIN QUERY PLAN " + text, values).fetchall():
                plans.add((row[3], text))
        return run(sql, text, values)

    metadata = open_metadata(tmp_path, "", GRACE_S, clock)
    monkeypatch.setattr(Sql, "_execute", explained)
    await metadata.start()
    stored = segment(metadata)
    lost = RepairNotice(stored.id, stored.generation, 0, "lost")
    again = replace(stored, generation=metadata.new_generation())
    new = several(metadata, [stored, segment(metadata)])
    await metadata.commit_content(new)
    await metadata.queue_repair(lost)
    await metadata.commit_content(single(again))
    await metadata.commit_content(replace(single(again), written=[]))
    await metadata.find_content(new.id)
    await metadata.find_segment(stored.id)
    for id_ in (ContentId(stored.id), new.id):
        await metadata.unpin(id_)
    clock.now_s += GRACE_S
    assert await metadata.collect(10) == 2
    await metadata.finish_deletes([row.id for row in await due_deletes(metadata)])
    await metadata.close()
    scans = {(plan, text) for plan, text in plans if plan.startswith("SCAN")}
    small = {"SCAN cluster", "SCAN session", "SCAN CONSTANT ROW", "SCAN layout"}
    assert {plan for plan, _ in scans} <= small, scans
    assert {text for plan, text in scans if plan == "SCAN layout"} == {
        "SELECT nodes, id FROM layout ORDER BY id DESC LIMIT ?"
    }
    assert len(plans) > 20

"""Contents that nobody needs any more; and that nothing is searched for by reading all there is."""

from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from common.errors import SegmentGone, SessionLost
from common.ids import ContentId
from coordinator.metadata import (
    COLLECT,
    Metadata,
    open_metadata,
)
from coordinator.metadata.sql import Sql
from coordinator.metadata.store import SESSION_LEASE_S
from tests.metadata_parts import (
    GRACE_S,
    NINE,
    Clock,
    due_deletes,
    finish_deletes,
    notice,
    segment,
    several,
    single,
)
from tests.reports import incoming


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
    await finish_deletes(metadata, rows)
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
    assert (await metadata.commit_content(replace(single(stored), written=[]))).new
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


async def test_a_segment_list_that_is_used_again_is_kept(metadata: Metadata, clock: Clock) -> None:
    """Its content was deleted, and the same bytes come again while it waits to be collected."""
    new = several(metadata, [segment(metadata), segment(metadata)])
    await metadata.commit_content(new)
    await metadata.unpin(new.id)
    clock.now_s += GRACE_S
    await metadata._begin_session()
    assert (await metadata.commit_content(replace(new, written=[]))).new
    touched = await metadata._read(lambda sql: sql.rows("SELECT touched_at FROM segment"))
    assert touched == 3 * [(int(clock.now_s),)]


async def test_a_segment_list_that_is_gone_is_not_referred_to(
    metadata: Metadata, clock: Clock
) -> None:
    """Its segments live on in another content; the list was found, and collected before COMMIT."""
    new = several(metadata, [segment(metadata), segment(metadata)])
    assert new.segment_list is not None
    await metadata.commit_content(new)
    for stored in new.segments:
        await metadata.commit_content(replace(single(stored), written=[]))
    await metadata.unpin(new.id)
    clock.now_s += GRACE_S
    assert await metadata.collect(10) == 1
    assert {row.shards.addresses[0].segment for row in await due_deletes(metadata)} == {
        new.segment_list.id
    }
    await metadata._begin_session()
    with pytest.raises(SegmentGone):
        await metadata.commit_content(replace(new, written=[]))
    assert await metadata.find_content(new.id) is None


async def test_a_content_cut_otherwise_leaves_no_segments_behind(
    metadata: Metadata, clock: Clock
) -> None:
    """Its latest cut stands; the segments of the first are collected."""
    first = several(metadata, [segment(metadata), segment(metadata)])
    second = replace(several(metadata, [segment(metadata) for _ in range(3)]), id=first.id)
    await metadata.commit_content(first)
    assert not (await metadata.commit_content(second)).new
    clock.now_s += GRACE_S
    for _ in range(2):
        await metadata.collect(10)
    manifest = await metadata.find_content(first.id)
    assert manifest is not None
    assert manifest.segments == tuple(second.segments)
    assert {row.shards.addresses[0].segment for row in await due_deletes(metadata)} == {
        stored.id for stored in first.written
    }
    assert (await metadata.counts())["segment"] == 4


async def test_shards_of_a_session_that_has_ended_do_not_become_visible(
    metadata: Metadata, clock: Clock
) -> None:
    """The sweep may have taken them: it spares those of live sessions only."""
    old, plain = segment(metadata), segment(metadata)
    clock.now_s += SESSION_LEASE_S + 1
    await metadata._begin_session()
    for new in (single(plain), several(metadata, [old, segment(metadata)])):
        with pytest.raises(SessionLost):
            await metadata.commit_content(new)
    assert (await metadata.counts())["segment"] == 0
    assert (await metadata.commit_content(single(segment(metadata)))).new


async def test_what_was_collected_is_counted(metadata: Metadata, clock: Clock) -> None:
    gone = [segment(metadata) for _ in range(3)]
    for stored in gone:
        await metadata.commit_content(single(stored))
        await metadata.unpin(ContentId(stored.id))
    assert await metadata.collect(10) == 0
    assert await metadata.job_states() == {}
    assert (await metadata.waiting())[COLLECT] == 3
    clock.now_s += GRACE_S
    for limit in (1, 10):
        await metadata.collect(limit)
    assert (await metadata.job_states())[COLLECT].state == {"collected": 3}
    assert (await metadata.waiting())[COLLECT] == 0


async def test_two_processes_that_collect_the_same_content(
    both: tuple[Metadata, Metadata], clock: Clock
) -> None:
    stored = segment(both[0])
    await both[0].commit_content(single(stored))
    await both[1].unpin(ContentId(stored.id))
    clock.now_s += GRACE_S
    content = ContentId(stored.id)
    found = [
        await each._write(partial(each._collect_one, content=content)) for each in (*both, *both)
    ]
    assert found == [True, False, False, False]
    assert len(await due_deletes(both[0])) == 9


async def test_nothing_is_deleted_while_deletes_are_stopped(
    metadata: Metadata, clock: Clock
) -> None:
    contents = [single(segment(metadata)) for _ in range(2)]
    for new in contents:
        await metadata.commit_content(new)
        await metadata.unpin(new.id)
    clock.now_s += GRACE_S
    assert await metadata.collect(1) == 1
    (node, *_) = NINE
    await metadata.save_report(incoming(node))
    assert await metadata.nodes_with_deletes() == [node]
    await metadata.stop_deletes("to look first")
    assert await metadata.collect(10) == 0
    left = ContentId(contents[1].id)
    assert not await metadata._write(lambda sql: metadata._collect_one(sql, left))
    assert await due_deletes(metadata) == []
    assert await metadata.nodes_with_deletes() == []
    assert await metadata.allow_deletes()
    assert await metadata.collect(10) == 1
    assert len(await due_deletes(metadata)) == 18


async def test_a_notice_that_comes_too_late_is_dropped(metadata: Metadata, clock: Clock) -> None:
    """Of a read that began before the segment was collected, or written anew."""
    stored = segment(metadata)
    late = notice(stored, *range(9))
    await metadata.commit_content(single(stored))
    await metadata.unpin(ContentId(stored.id))
    clock.now_s += GRACE_S
    assert await metadata.collect(10) == 1
    await metadata.queue_repair(late)
    assert (await metadata.counts())["repair_queue"] == 0
    await metadata._begin_session()
    short = replace(stored, generation=metadata.new_generation(), layout=(0, *NINE[1:]))
    await metadata.commit_content(single(short))
    await metadata.queue_repair(late)
    rows = await metadata._read(
        lambda sql: sql.rows("SELECT generation, survivors FROM repair_queue")
    )
    assert rows == [(short.generation, 8)]


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
    again = replace(stored, generation=metadata.new_generation())
    new = several(metadata, [stored, segment(metadata)])
    await metadata.commit_content(new)
    await metadata.queue_repair(notice(stored, *range(9)))
    await metadata.commit_content(single(again))
    await metadata.commit_content(replace(single(again), written=[]))
    await metadata.find_content(new.id)
    await metadata.find_segment(stored.id)
    for id_ in (ContentId(stored.id), new.id):
        await metadata.unpin(id_)
    clock.now_s += GRACE_S
    assert await metadata.collect(10) == 2
    await finish_deletes(metadata, await due_deletes(metadata))
    await metadata.close()
    scans = {(plan, text) for plan, text in plans if plan.startswith("SCAN")}
    small = {"cluster", "session", "CONSTANT ROW", "layout", "node"}
    tables = {plan.removeprefix("SCAN ") for plan, _ in scans if "(subquery" not in plan}
    assert tables <= small, scans
    assert {text for plan, text in scans if plan == "SCAN layout"} == {
        "SELECT nodes, id FROM layout ORDER BY id DESC LIMIT ?"
    }
    assert len(plans) > 20

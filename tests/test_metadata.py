"""The metadata database, on real SQLite files."""

import asyncio
import os
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from common.errors import (
    BadSetting,
    Conflict,
    SegmentGone,
    SessionLost,
    Unavailable,
    WrongCluster,
)
from common.ids import ContentId, SegmentId
from common.shards import Encoding
from coordinator.metadata import (
    Metadata,
    NewContent,
    RepairNotice,
    ShardsOnNode,
    StoredSegment,
    open_metadata,
)
from coordinator.metadata.database import MIGRATIONS, open_database
from coordinator.metadata.store import SESSION_LEASE_S
from tests.reports import incoming

GRACE_S = 3600
NINE = tuple(range(1, 10))


class Clock:
    """The database's clock, set by the test."""

    def __init__(self) -> None:
        self.now_s = 1_700_000_000.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def metadata(tmp_path: Path, clock: Clock) -> AsyncIterator[Metadata]:
    opened = open_metadata(tmp_path, "", GRACE_S, clock)
    await opened.start()
    yield opened
    await opened.close()


def segment(metadata: Metadata, layout: tuple[int, ...] = NINE) -> StoredSegment:
    generation = metadata.new_generation()
    id_, checksums = SegmentId(os.urandom(32)), os.urandom(288)
    return StoredSegment(id_, 4096, Encoding.PLAIN, 6, 9, generation, layout, checksums)


def single(stored: StoredSegment) -> NewContent:
    return NewContent(ContentId(stored.id), stored.size_bytes, [stored], None, [stored])


def several(metadata: Metadata, segments: list[StoredSegment]) -> NewContent:
    listed = replace(segment(metadata), encoding=Encoding.SEGMENT_LIST)
    size = sum(s.size_bytes for s in segments)
    distinct = {s.id: s for s in [*segments, listed]}
    return NewContent(ContentId(os.urandom(32)), size, segments, listed, list(distinct.values()))


async def test_a_content_of_one_segment(metadata: Metadata, clock: Clock) -> None:
    stored = segment(metadata)
    assert await metadata.find_content(ContentId(stored.id)) is None
    assert await metadata.commit_content(single(stored))
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
    assert await metadata.commit_content(new)
    manifest = await metadata.find_content(new.id)
    assert manifest is not None
    assert manifest.segments == (one, two, one, one, two)


async def test_the_same_content_again_is_not_new(metadata: Metadata) -> None:
    stored = segment(metadata)
    assert await metadata.commit_content(single(stored))
    assert not await metadata.commit_content(replace(single(stored), written=[]))


async def test_whoever_commits_first_wins_and_the_other_is_deleted(metadata: Metadata) -> None:
    first = segment(metadata)
    second = replace(first, generation=metadata.new_generation(), layout=NINE[::-1])
    await asyncio.gather(
        metadata.commit_content(single(first)), metadata.commit_content(single(second))
    )
    manifest = await metadata.find_content(ContentId(first.id))
    assert manifest is not None
    assert manifest.segments == (first,)
    rows = await metadata.due_deletes(100)
    doomed = {address for row in rows for address in row.shards.addresses}
    assert doomed == {second.address(i) for i in range(9)}
    assert {(r.shards.node, r.shards.addresses[0].index) for r in rows} == {
        (node, index) for index, node in enumerate(second.layout)
    }


async def test_unconfirmed_shards_are_deleted_with_the_commit(metadata: Metadata) -> None:
    stored = segment(metadata, (*NINE[:8], 0))
    unconfirmed = ShardsOnNode(9, (stored.address(8),))
    await metadata.commit_content(replace(single(stored), unconfirmed=[unconfirmed]))
    assert [row.shards for row in await metadata.due_deletes(10)] == [unconfirmed]
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
    assert [type(o) for o in outcomes] == [bool] * 10 + [SegmentGone] + [bool] * 10
    for new in good:
        assert await metadata.find_content(new.id) is not None
    assert await metadata.find_content(bad.id) is None


async def test_a_failing_statement_fails_only_its_own_change(metadata: Metadata) -> None:
    good, bad = single(segment(metadata)), single(segment(metadata))
    broken = single(replace(bad.written[0], generation=1 << 63))  # more than the database holds
    outcomes = await asyncio.gather(
        metadata.commit_content(good), metadata.commit_content(broken), return_exceptions=True
    )
    assert outcomes[0] is True
    assert isinstance(outcomes[1], ValueError)
    assert await metadata.find_content(good.id) is not None
    assert await metadata.find_segment(bad.written[0].id) is None


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
    rows = await metadata.due_deletes(100)
    assert len([a for row in rows for a in row.shards.addresses]) == 27  # with its segment list
    await metadata.finish_deletes([row.id for row in rows])
    counts = await metadata.counts()
    assert (counts["content"], counts["segment"], counts["outbox"]) == (0, 0, 0)


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


async def test_a_session_that_ran_out_commits_nothing(metadata: Metadata, clock: Clock) -> None:
    stored = segment(metadata)
    clock.now_s += SESSION_LEASE_S + 1
    with pytest.raises(SessionLost):
        await metadata.commit_content(single(stored))
    assert await metadata.find_content(ContentId(stored.id)) is None


async def test_generations_never_repeat(tmp_path: Path) -> None:
    seen: set[int] = set()
    for _ in range(3):
        opened = open_metadata(tmp_path, "", GRACE_S)
        await opened.start()
        made = {opened.new_generation() for _ in range(100)}
        assert len(made) == 100
        assert seen.isdisjoint(made)
        seen |= made
        await opened.close()


async def test_everything_is_there_after_opening_again(tmp_path: Path) -> None:
    first = open_metadata(tmp_path, "", GRACE_S)
    await first.start()
    stored, (node, _) = segment(first), await first.save_report(incoming(1))
    await first.commit_content(single(stored))
    await first.close()
    again = open_metadata(tmp_path, "", GRACE_S)
    await again.start()
    assert again.cluster_id == first.cluster_id
    assert await again.nodes() == [node]
    manifest = await again.find_content(ContentId(stored.id))
    assert manifest is not None
    assert manifest.segments == (stored,)
    await again.close()


async def test_a_node_keeps_its_number(metadata: Metadata) -> None:
    first, _ = await metadata.save_report(incoming(1))
    other, _ = await metadata.save_report(incoming(2))
    moved, _ = await metadata.save_report(incoming(1, zone="west"))
    assert (first.number, moved.zone) == (moved.number, "west")
    assert other.number != first.number
    assert moved in await metadata.nodes()


async def test_repair_notices_replace_each_other(metadata: Metadata) -> None:
    stored = segment(metadata)
    for survivors in (8, 7):
        await metadata.queue_repair(RepairNotice(stored.id, stored.generation, survivors, "x"))
    assert (await metadata.counts())["repair_queue"] == 1


async def test_asking_a_closed_database(tmp_path: Path) -> None:
    opened = open_metadata(tmp_path, "", GRACE_S)
    await opened.start()
    await opened.close()
    with pytest.raises(Unavailable):
        await opened.nodes()


def test_a_newer_schema_is_refused(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'metadata.db'}"
    sql = open_database(url)
    sql.run("UPDATE cluster SET schema_version = ?", len(MIGRATIONS) + 1)
    sql.database.close()
    with pytest.raises(Conflict, match="newer"):
        open_database(url)


def test_only_known_databases(tmp_path: Path) -> None:
    for url in ("mysql:///x", "sqlite:/x", "sqlite:///", "x"):
        with pytest.raises(BadSetting):
            open_database(url)


def test_adopting_a_cluster(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'metadata.db'}"
    open_database(url, cluster_id="ab" * 16).database.close()
    open_database(url, cluster_id="ab" * 16).database.close()
    with pytest.raises(WrongCluster):
        open_database(url, cluster_id="cd" * 16)


async def test_sqlite_is_durable(tmp_path: Path) -> None:
    sql = open_database(f"sqlite:///{tmp_path / 'metadata.db'}")
    assert sql.row("PRAGMA synchronous") == (2,)
    assert sql.row("PRAGMA journal_mode") == ("wal",)
    sql.database.close()


async def test_a_lost_segment_is_healed_by_a_new_upload(metadata: Metadata) -> None:
    """Dedup must not refer to what is known to be unreadable."""
    lost = segment(metadata)
    await metadata.commit_content(single(lost))
    await metadata.queue_repair(RepairNotice(lost.id, lost.generation, 6, "three are bad"))
    assert await metadata.find_segment(lost.id) is not None  # six are enough
    await metadata.queue_repair(RepairNotice(lost.id, lost.generation, 5, "four are bad"))
    assert await metadata.find_segment(lost.id) is None
    again = replace(lost, generation=metadata.new_generation(), layout=NINE[::-1])
    assert not await metadata.commit_content(single(again))
    manifest = await metadata.find_content(ContentId(lost.id))
    assert manifest is not None
    assert manifest.segments == (again,)
    deleted = {a for row in await metadata.due_deletes(99) for a in row.shards.addresses}
    assert deleted == {lost.address(i) for i in range(9)}
    assert (await metadata.counts())["repair_queue"] == 0
    known = await metadata.find_segment(lost.id)
    assert known is not None
    assert known.stored == again

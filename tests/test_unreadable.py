"""What repair cannot mend is listed, with every content that needs it."""

import os
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest

from common.ids import ContentId, SegmentId
from common.shards import Encoding
from coordinator.metadata import Bundled, Metadata, NewBundle, NewContent, StoredSegment
from coordinator.metadata.hopeless import Hopeless
from coordinator.repair import RepairWorker
from coordinator.throttle import Throttle
from sixfold.care_words import unreadable_lines
from sixfold.client import Client
from tests.blobs import content, put
from tests.local_cluster import LocalCluster, run_sixfold
from tests.metadata_parts import GRACE_S, Clock, execute, notice, segment, several, single
from tests.whole_path import Bed, memory_bed

SEGMENT = 4096


@pytest.fixture
async def bed(tmp_path: Path) -> AsyncIterator[Bed]:
    async with memory_bed(tmp_path, jobs=False, segment_bytes=SEGMENT) as running:
        yield running


async def lost(metadata: Metadata, *segments: StoredSegment) -> None:
    for each in segments:
        assert await metadata.queue_repair(notice(each, 0, 1, 2, 3))


async def stored(metadata: Metadata, new: NewContent) -> ContentId:
    assert (await metadata.commit_content(new)).new
    return new.id


async def listed(metadata: Metadata, limit: int = 100) -> list[Hopeless]:
    """Page by page."""
    rows, after = list[Hopeless](), b""
    while True:
        page = await metadata.hopeless(after, limit)
        assert len(page.rows) <= limit
        rows += page.rows
        if page.after is None:
            return rows
        after = page.after


def needs(rows: list[Hopeless]) -> set[tuple[SegmentId, ContentId | None, str | None]]:
    found = [(row.segment, row.content, row.state and row.state.value) for row in rows]
    assert len(set(found)) == len(found)
    return set(found)


# In the database


async def test_only_what_has_too_few_shards_is_listed(metadata: Metadata) -> None:
    bad, good = segment(metadata), segment(metadata)
    id_ = await stored(metadata, single(bad))
    await stored(metadata, single(good))
    await metadata.queue_repair(notice(good, 0, 1, 2))  # six are left
    assert await listed(metadata) == []
    await lost(metadata, bad)
    (row,) = await listed(metadata)
    assert (row.content, row.segment, row.state) == (id_, bad.id, "live")
    assert (row.survivors, row.k, row.n, row.reason) == (5, 6, 9, "4 are bad")
    await metadata.unpin(id_)
    assert needs(await listed(metadata)) == {(bad.id, id_, "deleted")}


async def test_every_content_that_shares_a_segment_is_named(metadata: Metadata) -> None:
    """One of them as its only segment, one twice."""
    shared, other = segment(metadata), segment(metadata)
    alone = await stored(metadata, single(shared))
    twice = await stored(metadata, several(metadata, [shared, other, shared]))
    once = await stored(metadata, several(metadata, [other, shared]))
    await metadata.unpin(once)
    await lost(metadata, shared)
    assert needs(await listed(metadata)) == {
        (shared.id, alone, "live"), (shared.id, twice, "live"), (shared.id, once, "deleted"),
    }  # fmt: skip


async def test_a_list_of_segments_is_needed_too(metadata: Metadata) -> None:
    new = several(metadata, [segment(metadata), segment(metadata)])
    id_ = await stored(metadata, new)
    assert new.segment_list is not None
    await lost(metadata, new.segment_list)
    assert needs(await listed(metadata)) == {(new.segment_list.id, id_, "live")}


@pytest.mark.parametrize("encoding", [Encoding.SEGMENT_LIST, Encoding.BUNDLE])
async def test_what_is_lost_and_not_needed_can_be_given_up(
    metadata: Metadata, clock: Clock, encoding: Encoding
) -> None:
    """As a rebuild leaves a list or bundle of which it has found too few shards."""
    left, needed, good = (replace(segment(metadata), encoding=encoding) for _ in range(3))
    for each in (left, needed, good):
        await stored(metadata, replace(single(each), id=ContentId(os.urandom(32))))
    await execute(metadata, "DELETE FROM pin")
    await execute(metadata, "DELETE FROM content_segment")
    await execute(metadata, "INSERT INTO content_segment VALUES (?, 0, ?)", bytes(32), needed.id)
    assert not await metadata.unpin(ContentId(left.id))
    await lost(metadata, left, needed)
    assert not await metadata.unpin(ContentId(good.id))
    assert not await metadata.unpin(ContentId(needed.id))
    assert await metadata.unpin(ContentId(left.id))
    clock.now_s += 2 * GRACE_S
    assert await metadata.collect(10) == 1
    assert {row.segment for row in await listed(metadata)} == {needed.id}
    assert not await metadata.unpin(ContentId(left.id))


async def test_all_that_is_in_a_bundle_is_named(metadata: Metadata) -> None:
    bundle = replace(segment(metadata), encoding=Encoding.BUNDLE)
    ids = [ContentId(os.urandom(32)) for _ in range(3)]
    parts = [Bundled(id_, at * 100, 100) for at, id_ in enumerate(ids)]
    assert await metadata.commit_bundle(NewBundle(bundle, parts)) == [True] * 3
    await lost(metadata, bundle)
    await metadata.unpin(ids[1])
    states = ("live", "deleted", "live")
    assert needs(await listed(metadata)) == {
        (bundle.id, id_, state) for id_, state in zip(ids, states, strict=True)
    }
    for id_ in ids:
        await execute(metadata, "DELETE FROM content WHERE id = ?", id_)
        await execute(metadata, "DELETE FROM content_segment WHERE content = ?", id_)
    await execute(
        metadata, "INSERT INTO collect_queue (content, unpinned_at) VALUES (?, 0)", bundle.id
    )
    assert needs(await listed(metadata)) == {(bundle.id, None, None)}  # it waits for the collector


async def test_what_nothing_needs_is_named_without_a_content(metadata: Metadata) -> None:
    """It was cut into several since, and the collector has not come by."""
    alone = segment(metadata)
    id_ = await stored(metadata, single(alone))
    await lost(metadata, alone)
    await execute(metadata, "INSERT INTO content VALUES (?, 1, 2, NULL, 0, NULL)", id_)
    assert needs(await listed(metadata)) == {(alone.id, None, None)}
    assert needs(await listed(metadata, 1)) == {(alone.id, None, None)}


async def test_pages_of_any_size_name_each_once(metadata: Metadata) -> None:
    segments = [segment(metadata) for _ in range(5)]
    for first in range(4):
        await stored(metadata, several(metadata, segments[first:]))
    for each in segments[:2]:
        await stored(metadata, single(each))
    await lost(metadata, *segments)
    whole = await listed(metadata)
    assert len(whole) == 1 + 2 + 3 + 4 + 4 + 2
    assert whole == sorted(whole, key=lambda row: (row.segment, row.content))
    with patch("coordinator.metadata.hopeless.SCANNED", 2):
        for limit in (1, 2, 3, 7, 100):
            assert await listed(metadata, limit) == whole


# Over HTTP, and as words


async def unreadable(bed: Bed) -> list[dict[str, Any]]:
    async with Client(bed.url) as client:
        return [row async for row in client.unreadable()]


async def test_repair_gives_up_and_an_upload_heals(bed: Bed) -> None:
    data = content(2 * SEGMENT + 1, "given up")
    id_ = await put(bed.http, data)
    bad = (await bed.segments(id_))[1]
    for index in range(5):
        bed.lose(bad, index)
    await bed.coordinator.metadata.queue_repair(notice(bad, 0))
    clock = Clock()
    repair = RepairWorker(bed.coordinator.services, Throttle(1e12), clock)
    while await repair.step():
        pass
    (row,) = await unreadable(bed)
    assert (row["content"], row["segment"], row["state"]) == (id_, str(bad.id), "live")
    assert (row["survivors"], row["k"], row["n"]) == (4, 6, 9)
    assert row["reason"] == "only 4 shards may still be good"
    title, line = unreadable_lines(row, with_title=True)
    assert title.split() == ["CONTENT", "STATE", "SEGMENT", "SHARDS", "REASON"]
    assert line.split()[:6] == [id_, "live", str(bad.id), "4", "of", "6"]
    assert line.endswith(row["reason"])
    assert await put(bed.http, data) == id_
    assert await unreadable(bed) == []


async def test_the_client_follows_pages(bed: Bed) -> None:
    ids = [await put(bed.http, content(100, f"page {number}")) for number in range(7)]
    await lost(bed.coordinator.metadata, *[(await bed.segments(id_))[0] for id_ in ids])
    with patch("coordinator.http.care.ROWS_AT_ONCE", 3):
        assert [row["content"] for row in await unreadable(bed)] == sorted(ids)


@pytest.mark.parametrize("query", ["?after=x", "?after=00", "?limit=x", f"?after={'A' * 64}"])
async def test_what_no_page_gave_is_refused(bed: Bed, query: str) -> None:
    async with bed.http.get(f"/-/admin/unreadable{query}") as answer:
        assert answer.status == 400


def test_the_command_on_real_nodes(cluster: LocalCluster) -> None:
    words = run_sixfold("unreadable", "--url", cluster.url)
    assert words == "repair knows of nothing that it cannot mend\n"
    assert run_sixfold("unreadable", "--json", "--url", cluster.url) == ""

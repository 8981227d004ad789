"""Shards that are known to be bad count as not there, in all that is said of a content, and are
known until they are mended."""

import io
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from common.errors import SegmentGone
from common.ids import ContentId
from coordinator.metadata import Metadata, StoredSegment, open_metadata
from coordinator.metadata.packing import mask_of
from coordinator.metadata.rows import Places, Seen
from coordinator.repair import RepairWorker
from coordinator.throttle import Throttle
from tests.blobs import content, get, put
from tests.metadata_parts import GRACE_S, NINE, Clock, notice, segment, single
from tests.whole_path import Bed, memory_bed

DATA = content(100_000, "known bad")


@pytest.fixture
async def bed(tmp_path: Path) -> AsyncIterator[Bed]:
    async with memory_bed(tmp_path, jobs=False, cache_bytes=0) as running:
        yield running


@pytest.fixture
async def metadata(tmp_path: Path) -> AsyncIterator[Metadata]:
    opened = open_metadata(tmp_path, "", GRACE_S, Clock())
    await opened.start()
    yield opened
    await opened.close()


async def put_again(bed: Bed) -> str:
    async with bed.http.put("/v1/blobs", data=io.BytesIO(DATA)) as answer:
        assert answer.status == 200, await answer.text()
        return answer.headers["Sixfold-Durability"]


async def head(bed: Bed, id_: str) -> str:
    async with bed.http.head(f"/v1/blobs/{id_}") as answer:
        return answer.headers["Sixfold-Durability"]


async def get_status(bed: Bed, id_: str) -> int:
    async with bed.http.get(f"/v1/blobs/{id_}") as answer:
        await answer.read()
        return answer.status


async def with_rot(bed: Bed, count: int) -> tuple[str, StoredSegment]:
    """DATA is stored, its first `count` shards have rotted, and `verify` has found that."""
    id_ = await put(bed.http, DATA)
    (stored,) = await bed.segments(id_)
    for index in range(count):
        bed.rot(stored, index)
    async with bed.http.post(f"/-/admin/verify/{id_}") as answer:
        assert answer.status == 200
    return id_, stored


async def known_bad(metadata: Metadata, stored: StoredSegment) -> int:
    manifest = await metadata.find_content(ContentId(stored.id))
    assert manifest is not None
    return manifest.segments[0].known_bad


# What is said of a content


@pytest.mark.parametrize(
    ("rotten", "said"), [(1, "8/9; survives=2"), (3, "6/9; survives=0"), (4, "5/9; survives=-1")]
)
async def test_a_head_leaves_out_what_is_known_to_be_bad(bed: Bed, rotten: int, said: str) -> None:
    id_, _ = await with_rot(bed, rotten)
    assert await head(bed, id_) == said


async def test_explain_leaves_it_out(bed: Bed) -> None:
    id_, stored = await with_rot(bed, 2)
    bed.away(stored.layout[8])
    async with bed.http.get(f"/v1/blobs/{id_}/explain") as answer:
        (said,) = (await answer.json())["segments"]
    states = [shard["state"] for shard in said["shards"]]
    assert states == [*["bad"] * 2, *["present"] * 6, "unreachable"]
    assert said["may_fail"]["nodes"] == 0
    assert len(said["may_fail"]["of_nodes"]) == 6


async def test_an_upload_of_known_bytes_leaves_it_out_too(bed: Bed) -> None:
    await with_rot(bed, 3)
    assert await put_again(bed) == "6/9; survives=0"


# Uploads never rely on what cannot be read


async def test_a_bad_shard_and_three_nodes_away_are_too_much_to_rely_on(bed: Bed) -> None:
    id_, stored = await with_rot(bed, 1)
    bed.away(*stored.layout[6:])
    assert await get_status(bed, id_) == 503
    assert await put_again(bed) == "9/9; survives=1"
    assert await get(bed.http, id_) == DATA


async def test_a_read_that_saw_less_does_not_make_a_lost_segment_one_to_rely_on(bed: Bed) -> None:
    id_, stored = await with_rot(bed, 4)
    bed.away(*stored.layout[1:4])
    assert await get_status(bed, id_) == 503
    await bed.coordinator.reads.settle()
    await put_again(bed)
    bed.away()
    assert await get(bed.http, id_) == DATA
    assert await head(bed, id_) == "9/9; survives=1"


async def test_rot_that_nobody_has_seen_is_found_when_nodes_are_away(bed: Bed) -> None:
    """With three away, the six that are left are read before anything relies on them."""
    id_ = await put(bed.http, DATA)
    (stored,) = await bed.segments(id_)
    bed.rot(stored, 0)
    bed.away(*stored.layout[6:])
    assert await put_again(bed) == "9/9; survives=1"
    assert await get(bed.http, id_) == DATA
    (again,) = await bed.segments(id_)
    assert again.generation != stored.generation


async def test_with_nodes_away_what_can_be_read_is_not_written_again(bed: Bed) -> None:
    id_ = await put(bed.http, DATA)
    (stored,) = await bed.segments(id_)
    bed.rot(stored, 0)
    bed.away(*stored.layout[7:])
    assert await put_again(bed) == "6/9; survives=0"
    assert await bed.segments(id_) == (replace(stored, known_bad=1),)


async def test_while_nearly_all_nodes_are_there_nothing_is_read(bed: Bed) -> None:
    id_ = await put(bed.http, DATA)
    (stored,) = await bed.segments(id_)
    bed.away(stored.layout[8])
    assert await put_again(bed) == "8/9; survives=2"
    assert sum(node.reads for node in bed.cluster.memory.values()) == 0


async def test_repair_that_cannot_reach_a_bad_shard_still_knows_it(bed: Bed) -> None:
    id_, stored = await with_rot(bed, 4)
    bed.away(*stored.layout[1:4])
    repair = RepairWorker(bed.coordinator.services, Throttle(float("inf")))
    await repair.step()
    bed.away()
    assert await head(bed, id_) == "5/9; survives=-1"


async def test_what_repair_has_mended_counts_again(bed: Bed) -> None:
    id_, stored = await with_rot(bed, 2)
    bed.away(stored.layout[8])
    repair = RepairWorker(bed.coordinator.services, Throttle(float("inf")))
    await repair.step()
    bed.away()
    assert await head(bed, id_) == "9/9; survives=3"
    counts = await bed.coordinator.metadata.counts()
    assert counts["repair_queue"] == 1  # one could not be looked at


async def test_what_is_found_to_be_lost_during_an_upload_is_not_relied_on(
    metadata: Metadata,
) -> None:
    stored = segment(metadata)
    await metadata.commit_content(single(stored))
    again = replace(single(stored), written=[])
    await metadata.queue_repair(notice(stored, 0, 1, 2))
    await metadata.commit_content(again)
    await metadata.queue_repair(notice(stored, 3))
    with pytest.raises(SegmentGone):
        await metadata.commit_content(again)


# In the database


async def test_notices_add_up(metadata: Metadata) -> None:
    stored = segment(metadata)
    await metadata.commit_content(single(stored))
    for bad in ((1, 4), (4,), (2, 7)):
        await metadata.queue_repair(notice(stored, *bad))
    assert await known_bad(metadata, stored) == mask_of((1, 2, 4, 7))
    assert await metadata.queued_by_survivors() == {5: 1}
    assert await metadata.find_segment(stored.id) is None


async def test_a_notice_of_a_place_where_the_shard_is_no_more_says_nothing(
    metadata: Metadata,
) -> None:
    """A read that began before the shard was moved finds it gone from its old place."""
    stored = segment(metadata)
    await metadata.commit_content(single(stored))
    before = replace(stored, layout=(10, *NINE[1:]))
    await metadata.queue_repair(notice(before, 0))
    assert (await metadata.counts())["repair_queue"] == 0
    await metadata.queue_repair(notice(before, 0, 3))
    assert await known_bad(metadata, stored) == mask_of([3])


async def test_a_shard_that_moves_is_not_bad_any_more(metadata: Metadata) -> None:
    stored = segment(metadata)
    await metadata.commit_content(single(stored))
    await metadata.queue_repair(notice(stored, 0, 3))
    asked_at_s = (await metadata.mending.forbidden(stored)).asked_at_s
    assert await metadata.mending.switch_layout(stored, {0: 10}, asked_at_s)
    assert await known_bad(metadata, stored) == mask_of([3])


async def test_what_is_found_during_a_repair_outlasts_it(metadata: Metadata) -> None:
    stored = segment(metadata)
    await metadata.commit_content(single(stored))
    await metadata.queue_repair(notice(stored, 0))
    (repair,) = await metadata.mending.due_repairs(range(10), 1)
    await metadata.queue_repair(notice(stored, 5))
    await metadata.mending.set_whole(repair.stored, repair.survivors, verified=True)
    assert await known_bad(metadata, stored) == mask_of([0, 5])
    all_good = Seen(good=mask_of(range(9)))
    await metadata.mending.postpone(repair.stored, all_good, "a node is away", 5)
    assert await known_bad(metadata, stored) == mask_of([5])
    assert await metadata.queued_by_survivors() == {8: 1}


async def verified_at(metadata: Metadata, stored: StoredSegment) -> int:
    found = await metadata.explained(ContentId(stored.id), 0, 1)
    assert found is not None
    return found.segments[0].verified_at_s


async def test_a_segment_that_is_whole_leaves_the_queue(metadata: Metadata) -> None:
    stored = segment(metadata)
    await metadata.commit_content(single(stored))
    await metadata.queue_repair(notice(stored, 0))
    (repair,) = await metadata.mending.due_repairs(range(10), 1)
    await metadata.mending.set_whole(repair.stored, repair.survivors, verified=False)
    assert await metadata.queued_by_survivors() == {}
    assert await verified_at(metadata, stored) == 0
    await metadata.mending.set_whole(repair.stored, repair.survivors, verified=True)
    assert await verified_at(metadata, stored) > 0


async def test_what_is_found_meanwhile_is_not_verified(metadata: Metadata) -> None:
    stored = segment(metadata)
    await metadata.commit_content(single(stored))
    await metadata.queue_repair(notice(stored, 5))
    await metadata.mending.set_whole(stored, 9, verified=True)
    assert await verified_at(metadata, stored) == 0


async def test_only_a_segment_that_still_lies_so_is_whole(metadata: Metadata) -> None:
    """Of where its shards were moved meanwhile, the repair that ends here has seen nothing."""
    stored = segment(metadata)
    await metadata.commit_content(single(stored))
    await metadata.queue_repair(notice(stored, 0))
    (repair,) = await metadata.mending.due_repairs(range(10), 1)
    asked_at_s = (await metadata.mending.forbidden(stored)).asked_at_s
    assert await metadata.mending.switch_layout(stored, {4: 11}, asked_at_s)
    await metadata.mending.set_whole(repair.stored, repair.survivors, verified=True)
    assert await metadata.queued_by_survivors() == {8: 1}
    assert await verified_at(metadata, stored) == 0


async def test_lost_nodes_and_bad_shards_count_together(metadata: Metadata) -> None:
    stored = segment(metadata)
    await metadata.commit_content(single(stored))
    await metadata.queue_repair(notice(stored, 0, 1))
    (use,) = await metadata.layout_uses(0, 10)
    await metadata.mending.queue_layouts([(use.id, mask_of((1, 2, 3)), "on lost nodes")])
    assert await metadata.queued_by_survivors() == {5: 1}
    await metadata.mending.queue_layouts([(use.id, mask_of([2]), "on lost nodes")])
    assert await metadata.queued_by_survivors() == {6: 1}  # two of the nodes are back


async def test_a_node_that_was_lost_meanwhile_is_not_forgotten(metadata: Metadata) -> None:
    """A repair that found all to be good was paused before it could say so."""
    stored = segment(metadata)
    await metadata.commit_content(single(stored))
    await metadata.queue_repair(replace(notice(stored, 0), bad=Places()))
    (repair,) = await metadata.mending.due_repairs(range(10), 1)
    (use,) = await metadata.layout_uses(0, 10)
    await metadata.mending.queue_layouts([(use.id, mask_of([2]), "shards on nodes that are lost")])
    await metadata.mending.set_whole(repair.stored, repair.survivors, verified=True)
    assert await metadata.queued_by_survivors() == {8: 1}
    assert await verified_at(metadata, stored) == 0


async def test_what_was_seen_before_shards_were_moved_is_not_noted(metadata: Metadata) -> None:
    stored = segment(metadata)
    await metadata.commit_content(single(stored))
    await metadata.queue_repair(replace(notice(stored, 0), bad=Places()))
    (repair,) = await metadata.mending.due_repairs(range(10), 1)
    asked_at_s = (await metadata.mending.forbidden(stored)).asked_at_s
    assert await metadata.mending.switch_layout(stored, {4: 11}, asked_at_s)
    four_is_gone = Seen(good=mask_of({*range(9)} - {4}), bad=mask_of([4]))
    await metadata.mending.postpone(repair.stored, four_is_gone, "it was then", 5)
    assert await known_bad(metadata, stored) == 0
    assert await metadata.queued_by_survivors() == {9: 1}

"""Contents that are segments of other contents too come back in a rebuild of the metadata."""

import asyncio
import os
from functools import partial

import pytest

from common.errors import NotFound
from common.ids import ContentId, SegmentId
from common.shards import Encoding
from coordinator.metadata import Metadata, NewContent
from coordinator.metadata.sessions import doubt
from coordinator.read_path import ReadPath
from coordinator.write_path import WritePath
from tests.memory_cluster import SEGMENT_BYTES, MemoryCluster, Sweeper, get, put
from tests.metadata_parts import Clock, execute, segment, seize_lease, several, single
from tests.test_rebuild import forget_everything, rebuild

Ends = tuple[WritePath, ReadPath]
FIRST, TAIL = os.urandom(SEGMENT_BYTES), os.urandom(100)
LARGE = FIRST + os.urandom(SEGMENT_BYTES) + TAIL


async def lists(metadata: Metadata) -> int:
    """How many there are."""
    found = await metadata.segments_after(b"", 100)
    return sum(each.encoding == Encoding.SEGMENT_LIST for each in found)


@pytest.mark.parametrize("order", [(FIRST, LARGE), (LARGE, FIRST), (TAIL, LARGE), (LARGE, TAIL)])
async def test_both_come_back(
    metadata: Metadata, nodes: MemoryCluster, ends: Ends, order: tuple[bytes, bytes]
) -> None:
    writes, reads = ends
    contents = {await put(writes, data): data for data in order}
    assert await lists(metadata) == 2
    for _ in range(2):
        await forget_everything(metadata)
        await rebuild(metadata, nodes, reads)
        for id_, data in contents.items():
            assert await get(reads, id_) == data
        assert (await metadata.counts())["pin"] == 2  # no other piece has become a content


async def test_uploads_at_the_same_time(
    metadata: Metadata, nodes: MemoryCluster, ends: Ends
) -> None:
    datas = [FIRST, LARGE, TAIL]
    ids = await asyncio.gather(*(put(ends[0], data) for data in datas))
    await forget_everything(metadata)
    await rebuild(metadata, nodes, ends[1])
    for id_, data in zip(ids, datas, strict=True):
        assert await get(ends[1], id_) == data


async def test_a_second_upload_leaves_the_mark(metadata: Metadata, ends: Ends) -> None:
    for data in (LARGE, TAIL):
        await put(ends[0], data)
    before = await metadata.counts()
    for data in (LARGE, TAIL):
        await put(ends[0], data)
    assert await metadata.counts() == before


async def collect_all(sweeper: Sweeper) -> None:
    for _ in range(3):
        await sweeper.later()
        await sweeper.metadata.collect(100)
        await sweeper.outbox()


async def test_each_stays_when_the_other_is_deleted(
    metadata: Metadata, nodes: MemoryCluster, ends: Ends, clock: Clock
) -> None:
    (writes, reads), sweeper = ends, Sweeper(metadata, nodes, clock)
    tail, large = await put(writes, TAIL), await put(writes, LARGE)
    await metadata.unpin(tail)
    await collect_all(sweeper)
    assert await lists(metadata) == 1
    assert await get(reads, large) == LARGE
    await put(writes, TAIL)
    await metadata.unpin(large)
    await collect_all(sweeper)
    for _ in range(2):
        assert await get(reads, tail) == TAIL
        assert (await metadata.counts())["segment"] == 2
        with pytest.raises(NotFound):
            await get(reads, large)
        await forget_everything(metadata)
        await rebuild(metadata, nodes, reads)
    await metadata.unpin(tail)
    await collect_all(sweeper)
    assert nodes.shards() == set()


async def test_a_content_that_is_deleted_meanwhile_stays_so(metadata: Metadata) -> None:
    """An upload has seen that a mark is lacking, and has written it."""
    piece, mark = segment(metadata), segment(metadata)
    await metadata.commit_content(single(piece))
    await metadata.commit_content(several(metadata, [piece, segment(metadata)]))
    assert [each.id for each in await metadata.marks.lacking([piece, mark])] == [piece.id]
    await metadata.unpin(ContentId(piece.id))
    await metadata.marks.commit(
        NewContent(ContentId(piece.id), piece.size_bytes, [piece], mark, [mark])
    )
    assert await metadata.find_content(ContentId(piece.id)) is None
    assert await metadata.find_segment(SegmentId(mark.id)) is None
    assert (await metadata.counts())["outbox_delete"] == 9


async def test_a_list_of_what_is_known_otherwise_goes(
    metadata: Metadata, nodes: MemoryCluster, ends: Ends, clock: Clock
) -> None:
    """As one of a content that is in a bundle by now, when the database that knew it is lost."""
    tail = os.urandom(500)
    for data in (tail, os.urandom(SEGMENT_BYTES) + tail):
        await put(ends[0], data)
    mark = "(SELECT segment_list FROM content WHERE segment_count = 1)"
    await execute(metadata, f"DELETE FROM segment WHERE id = {mark}")
    await execute(metadata, "UPDATE content SET segment_list = NULL WHERE segment_count = 1")
    before = (await metadata.counts())["segment"]
    await rebuild(metadata, nodes, ends[1])
    assert (await metadata.counts())["segment"] == before + 1
    await collect_all(Sweeper(metadata, nodes, clock))
    assert (await metadata.counts())["segment"] == before
    assert len(nodes.shards()) == 9 * before


async def test_a_mark_that_a_backup_names_and_that_was_deleted_since_is_written_anew(
    metadata: Metadata, nodes: MemoryCluster, ends: Ends
) -> None:
    for data in (FIRST, LARGE):
        await put(ends[0], data)
    (mark,) = await metadata._read(
        lambda sql: sql.only("SELECT segment_list FROM content WHERE segment_count = 1")
    )
    for store in nodes.stores.values():
        for address in [each for each in store.records if each.segment == mark]:
            del store.records[address]
    await metadata._write(partial(doubt, until_epoch=metadata.session))
    await metadata._begin_session()
    id_ = await put(ends[0], FIRST)
    await forget_everything(metadata)
    await rebuild(metadata, nodes, ends[1])
    assert await get(ends[1], id_) == FIRST


@pytest.mark.parametrize("nodes_done", [0, 4, 8])
async def test_a_piece_of_what_is_being_deleted(
    metadata: Metadata, nodes: MemoryCluster, ends: Ends, clock: Clock, nodes_done: int
) -> None:
    """Its list is on some nodes still when the database is lost, and the outbox with it."""
    (writes, reads), sweeper = ends, Sweeper(metadata, nodes, clock)
    await metadata.unpin(await put(writes, LARGE))
    await sweeper.later()
    assert await metadata.collect(10) == 1
    nodes.away.update(range(nodes_done + 1, 10))
    await sweeper.outbox()
    nodes.away.clear()
    id_ = await put(writes, FIRST)
    assert await get(reads, id_) == FIRST
    await forget_everything(metadata)
    for table in ("outbox_delete", "collect_queue", "repair_queue"):
        await execute(metadata, f"DELETE FROM {table}")
    await rebuild(metadata, nodes, reads)
    assert await get(reads, id_) == FIRST


async def test_lists_are_deleted_before_what_they_list(
    metadata: Metadata, nodes: MemoryCluster, ends: Ends, clock: Clock
) -> None:
    """As long as a list is there, its segments are known for such."""
    (writes, reads), sweeper = ends, Sweeper(metadata, nodes, clock)
    id_ = await put(writes, LARGE)
    pieces = {segment.id for segment in (await reads.find(id_)).segments}
    await metadata.unpin(id_)
    await sweeper.later()
    assert await metadata.collect(10) == 1
    await seize_lease(metadata)
    due = [row.shards.addresses[0].segment for row in (await metadata.due_deletes(1, 10)).rows]
    assert due[0] not in pieces
    assert set(due[1:]) == pieces

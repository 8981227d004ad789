"""Small uploads that come together share a segment; each is a content like any other."""

import asyncio
import os
from collections.abc import Sequence

import pytest

from common.bundle import bundle_bytes
from common.errors import NotFound, Undurable, Unreadable
from common.hashing import blake3_digest
from common.ids import ContentId, SegmentId
from common.shards import Encoding
from common.units import KIB
from coordinator.bundler import BUNDLE_BYTES, SMALL_BYTES, Small
from coordinator.metadata import Manifest, Metadata
from coordinator.read_path import ReadPath
from coordinator.rebuild import Rebuild
from coordinator.rebundle import RebundleWorker, groups
from coordinator.throttle import Throttle
from coordinator.write_path import WritePath
from coordinator.write_upload import Stored
from tests.memory_cluster import MemoryCluster, Sweeper, body, get, put
from tests.metadata_parts import Clock, execute

Ends = tuple[WritePath, ReadPath]


def ids_of(contents: Sequence[bytes]) -> list[ContentId]:
    return [ContentId(blake3_digest(data)) for data in contents]


def small(count: int, size_bytes: int = 300) -> list[bytes]:
    return [os.urandom(size_bytes) for _ in range(count)]


async def put_all(writes: WritePath, contents: Sequence[bytes]) -> list[Stored]:
    return await asyncio.gather(*(writes.store(body(data), len(data)) for data in contents))


async def bundled(ends: Ends, contents: Sequence[bytes]) -> list[Stored]:
    """Uploads that wait while another is being written."""
    writes = ends[0]
    turn = writes.bundler.turn(Small(ContentId(os.urandom(32)), memoryview(b"first")))
    assert await turn.__aenter__() is None
    puts = asyncio.gather(*(writes.store(body(data), len(data)) for data in contents))
    while len(writes.bundler._waiting) < len(set(contents)):
        await asyncio.sleep(0)
    await turn.__aexit__(None, None, None)
    return await puts


async def manifest(reads: ReadPath, id_: ContentId) -> Manifest:
    return await reads.find(id_)


async def bundles_of(reads: ReadPath, contents: Sequence[bytes]) -> set[SegmentId]:
    manifests = [await reads.find(id_) for id_ in ids_of(contents)]
    assert all(m.start_bytes is not None and len(m.segments) == 1 for m in manifests)
    assert all(m.segments[0].encoding is Encoding.BUNDLE for m in manifests)
    return {m.segments[0].id for m in manifests}


async def test_what_waits_shares_a_segment(ends: Ends, nodes: MemoryCluster) -> None:
    contents = small(20)
    answers = await bundled(ends, contents)
    assert [(a.id, a.size_bytes, a.new) for a in answers] == [
        (id_, 300, True) for id_ in ids_of(contents)
    ]
    assert {str(answer.durability) for answer in answers} == {"9/9; survives=3"}
    assert len(await bundles_of(ends[1], contents)) == 1
    assert len(nodes.shards()) == 9
    for id_, data in zip(ids_of(contents), contents, strict=True):
        assert await get(ends[1], id_) == data
        assert await ends[1].read_small(await ends[1].find(id_), 17, 100) == data[17:100]


async def test_one_alone_is_a_segment(ends: Ends) -> None:
    (data,) = small(1)
    found = await ends[1].find(await put(ends[0], data))
    assert (found.start_bytes, found.segments[0].id) == (None, SegmentId(found.id))


async def test_the_empty_and_the_large_are_not_bundled(ends: Ends) -> None:
    contents = [b"", os.urandom(SMALL_BYTES + 1), *small(3)]
    await put_all(ends[0], contents)
    for id_, data in zip(ids_of(contents), contents, strict=True):
        assert await get(ends[1], id_) == data
    for id_ in ids_of(contents)[:2]:
        assert (await ends[1].find(id_)).start_bytes is None


async def test_a_bundle_is_not_larger_than_it_may_be(ends: Ends) -> None:
    contents = small(100, 3 * KIB)
    await put_all(ends[0], contents)
    for id_, data in zip(ids_of(contents), contents, strict=True):
        found = await ends[1].find(id_)
        assert found.segments[0].size_bytes <= BUNDLE_BYTES
        assert await get(ends[1], id_) == data


async def test_full_bundles_do_not_wait_for_each_other(ends: Ends) -> None:
    """Where nodes are far away, only so many contents could be stored in a second."""
    writes, contents = ends[0], small(50, 4 * KIB)
    turn = writes.bundler.turn(Small(ContentId(os.urandom(32)), memoryview(b"first")))
    await turn.__aenter__()
    puts = [asyncio.ensure_future(writes.store(body(data), len(data))) for data in contents]
    while sum(each.done() for each in puts) < 31:
        await asyncio.sleep(0)
    assert len(writes.bundler._waiting) == 50 - 31
    await turn.__aexit__(None, None, None)
    assert [(await each).new for each in puts] == [True] * 50


async def test_any_six_nodes_suffice(ends: Ends, nodes: MemoryCluster) -> None:
    contents = small(20)
    await bundled(ends, contents)
    nodes.away.update((2, 5, 7))
    for id_, data in zip(ids_of(contents), contents, strict=True):
        assert await get(ends[1], id_) == data
    nodes.away.add(9)
    with pytest.raises(Unreadable):
        for id_ in ids_of(contents):
            await get(ends[1], id_)


async def test_the_same_bytes_again_are_not_written(ends: Ends, nodes: MemoryCluster) -> None:
    contents = small(5)
    await bundled(ends, contents)
    before = nodes.shards()
    again = await put_all(ends[0], contents[:2])
    assert [answer.new for answer in again] == [False, False]
    assert nodes.shards() == before


async def test_twins_that_wait_together_are_both_answered(ends: Ends) -> None:
    data, *others = small(3)
    answers = await bundled(ends, [data, *others, data])
    assert answers[0].id == answers[3].id
    assert sorted([answers[0].new, answers[3].new]) == [False, True]
    assert await get(ends[1], answers[0].id) == data


async def test_a_wrong_id_harms_no_other(ends: Ends) -> None:
    contents = small(4)
    wrong = ends[0].store(body(contents[0]), 300, ContentId(bytes(32)))
    refused, *_ = await asyncio.gather(wrong, bundled(ends, contents[1:]), return_exceptions=True)
    assert isinstance(refused, Exception)
    with pytest.raises(NotFound):
        await ends[1].find(ids_of(contents)[0])
    for id_, data in zip(ids_of(contents[1:]), contents[1:], strict=True):
        assert await get(ends[1], id_) == data


async def test_who_goes_away_leaves_nothing_visible(ends: Ends) -> None:
    """Before the bundle is begun, and while it is written: for the others that makes none."""
    writes, contents = ends[0], small(6)
    turn = writes.bundler.turn(Small(ContentId(os.urandom(32)), memoryview(b"first")))
    await turn.__aenter__()
    puts = [asyncio.ensure_future(writes.store(body(data), 300)) for data in contents]
    while len(writes.bundler._waiting) < 6:
        await asyncio.sleep(0)
    puts[0].cancel()
    await asyncio.sleep(0)
    await turn.__aexit__(None, None, None)
    while not writes.bundler._tasks:
        await asyncio.sleep(0)
    puts[1].cancel()
    await asyncio.gather(*puts, return_exceptions=True)
    await writes.settle()
    for id_ in ids_of(contents)[:2]:
        with pytest.raises(NotFound):
            await ends[1].find(id_)
    for id_, data in zip(ids_of(contents)[2:], contents[2:], strict=True):
        assert await get(ends[1], id_) == data
    assert await put(writes, contents[0]) == ids_of(contents)[0]


async def test_when_all_go_away_nothing_stays(
    ends: Ends, nodes: MemoryCluster, metadata: Metadata, clock: Clock
) -> None:
    writes, contents = ends[0], small(3)
    turn = writes.bundler.turn(Small(ContentId(os.urandom(32)), memoryview(b"first")))
    await turn.__aenter__()
    puts = [asyncio.ensure_future(writes.store(body(data), 300)) for data in contents]
    while len(writes.bundler._waiting) < 3:
        await asyncio.sleep(0)
    await turn.__aexit__(None, None, None)
    while not writes.bundler._tasks:
        await asyncio.sleep(0)
    for each in puts:
        each.cancel()
    await asyncio.gather(*puts, return_exceptions=True)
    await writes.settle()
    await Sweeper(metadata, nodes, clock).outbox()
    assert nodes.shards() == set()
    assert (await metadata.counts())["segment"] == 0


async def test_what_cannot_be_stored_is_told_to_all(
    ends: Ends, nodes: MemoryCluster, metadata: Metadata, clock: Clock
) -> None:
    nodes.away.update(range(3, 10))
    contents = small(4)
    writes = ends[0]
    turn = writes.bundler.turn(Small(ContentId(os.urandom(32)), memoryview(b"first")))
    await turn.__aenter__()
    puts = [asyncio.ensure_future(writes.store(body(data), 300)) for data in contents]
    while len(writes.bundler._waiting) < 4:
        await asyncio.sleep(0)
    await turn.__aexit__(None, None, None)
    outcomes = await asyncio.gather(*puts, return_exceptions=True)
    assert [type(outcome) for outcome in outcomes] == [Undurable] * 4
    assert len({id(outcome) for outcome in outcomes}) == 4
    nodes.away.clear()
    await writes.settle()
    await Sweeper(metadata, nodes, clock).outbox()
    assert nodes.shards() == set()


# Deleting


def rebundler(ends: Ends, metadata: Metadata) -> RebundleWorker:
    return RebundleWorker(metadata, ends[1], ends[0].bundler, Throttle(float("inf")))


async def test_deleted_contents_go_and_the_rest_stays(
    ends: Ends, nodes: MemoryCluster, metadata: Metadata, clock: Clock
) -> None:
    contents = small(10)
    await bundled(ends, contents)
    sweeper = Sweeper(metadata, nodes, clock)
    for id_ in ids_of(contents)[:9]:
        await metadata.unpin(id_)
    await sweeper.later()
    assert await metadata.collect(100) == 9
    (old,) = await bundles_of(ends[1], contents[9:])
    assert await rebundler(ends, metadata).step() is False
    (new,) = await bundles_of(ends[1], contents[9:])
    assert new != old
    assert await get(ends[1], ids_of(contents)[9]) == contents[9]
    assert len(nodes.shards()) == 18  # reads that have begun go on
    await sweeper.later()
    await metadata.collect(100)
    await sweeper.outbox()
    assert {address.segment for _, address in nodes.shards()} == {new}
    assert await get(ends[1], ids_of(contents)[9]) == contents[9]
    assert (await metadata.counts())["content"] == 1


async def test_a_bundle_that_nobody_needs_goes(
    ends: Ends, nodes: MemoryCluster, metadata: Metadata, clock: Clock
) -> None:
    contents = small(10)
    await bundled(ends, contents)
    sweeper = Sweeper(metadata, nodes, clock)
    for id_ in ids_of(contents):
        await metadata.unpin(id_)
    await sweeper.later()
    while await metadata.collect(100):
        pass
    await sweeper.outbox()
    assert nodes.shards() == set()
    counts = await metadata.counts()
    assert not any(counts[name] for name in ("segment", "content", "pin", "collect_queue"))
    rows = await metadata._read(
        lambda sql: sql.rows(
            "SELECT segment FROM content_segment UNION SELECT segment FROM rebundle_queue"
        )
    )
    assert rows == []


async def test_half_is_needed_nothing_is_moved(
    ends: Ends, nodes: MemoryCluster, metadata: Metadata, clock: Clock
) -> None:
    contents = small(10, 1000)
    await bundled(ends, contents)
    before = nodes.shards()
    for id_ in ids_of(contents)[:4]:
        await metadata.unpin(id_)
    await Sweeper(metadata, nodes, clock).later()
    assert await metadata.collect(100) == 4
    await rebundler(ends, metadata).step()
    assert nodes.shards() == before


async def test_a_deleted_content_of_a_bundle_comes_back_if_it_is_put_again(
    ends: Ends, nodes: MemoryCluster, metadata: Metadata, clock: Clock
) -> None:
    """Before it is collected, after that, and after the bundle was moved."""
    contents = small(10)
    await bundled(ends, contents)
    sweeper = Sweeper(metadata, nodes, clock)
    id_ = ids_of(contents)[0]
    await metadata.unpin(id_)
    assert await put(ends[0], contents[0]) == id_
    assert await get(ends[1], id_) == contents[0]
    for each in ids_of(contents)[:8]:
        await metadata.unpin(each)
    await sweeper.later()
    while await metadata.collect(100):
        pass
    assert await put(ends[0], contents[0]) == id_
    await rebundler(ends, metadata).step()
    await sweeper.later()
    while await metadata.collect(100):
        pass
    await sweeper.outbox()
    for each, data in zip([id_, *ids_of(contents)[8:]], [contents[0], *contents[8:]], strict=True):
        assert await get(ends[1], each) == data


async def test_what_is_deleted_while_it_is_moved_stays_deleted(
    ends: Ends, nodes: MemoryCluster, metadata: Metadata, clock: Clock
) -> None:
    contents = small(10)
    await bundled(ends, contents)
    sweeper = Sweeper(metadata, nodes, clock)
    for id_ in ids_of(contents)[:8]:
        await metadata.unpin(id_)
    await sweeper.later()
    await metadata.collect(100)
    job = rebundler(ends, metadata)
    (bundle, parts), *_ = await metadata.rebundling.wasteful(10)
    smalls = await job._read(bundle, parts)
    await metadata.unpin(ids_of(contents)[8])
    await sweeper.later()
    await metadata.collect(100)
    (group,) = groups(smalls)
    await ends[0].bundler.move(group)
    with pytest.raises(NotFound):
        await ends[1].find(ids_of(contents)[8])
    assert await get(ends[1], ids_of(contents)[9]) == contents[9]
    assert (await metadata.counts())["content"] == 1


async def test_a_move_that_comes_second_leaves_nothing(
    ends: Ends, nodes: MemoryCluster, metadata: Metadata, clock: Clock
) -> None:
    """Another process did the job meanwhile."""
    contents = small(10)
    await bundled(ends, contents)
    sweeper = Sweeper(metadata, nodes, clock)
    for id_ in ids_of(contents)[:8]:
        await metadata.unpin(id_)
    await sweeper.later()
    await metadata.collect(100)
    ((bundle, parts),) = await metadata.rebundling.wasteful(10)
    smalls = await rebundler(ends, metadata)._read(bundle, parts)
    await ends[0].bundler.move(smalls)
    (moved,) = await bundles_of(ends[1], contents[8:])
    await ends[0].bundler.move(smalls)
    assert await bundles_of(ends[1], contents[8:]) == {moved}
    await sweeper.later()
    await metadata.collect(100)
    await sweeper.outbox()
    assert {address.segment for _, address in nodes.shards()} == {moved}


async def test_a_bundle_that_cannot_be_read_holds_up_no_other(
    ends: Ends, nodes: MemoryCluster, metadata: Metadata, clock: Clock
) -> None:
    first, second = small(10), small(10)
    await bundled(ends, first)
    await bundled(ends, second)
    for id_ in (*ids_of(first)[1:], *ids_of(second)[1:]):
        await metadata.unpin(id_)
    await Sweeper(metadata, nodes, clock).later()
    await metadata.collect(100)
    (lost,) = await bundles_of(ends[1], first[:1])
    for store in nodes.stores.values():
        for address in [a for a in store.records if a.segment == lost]:
            del store.records[address]
    (old,) = await bundles_of(ends[1], second[:1])
    job = rebundler(ends, metadata)
    await job.step()
    assert await bundles_of(ends[1], second[:1]) != {old}
    assert await metadata.rebundling.wasteful(10) == []
    clock.now_s += 601
    assert [each.id for each, _ in await metadata.rebundling.wasteful(10)] == [lost]


async def test_lost_bytes_that_are_put_again_are_whole_again(
    ends: Ends, nodes: MemoryCluster, metadata: Metadata
) -> None:
    contents = small(6)
    await bundled(ends, contents)
    for number in (1, 2, 3, 4):
        nodes.stores[number].records.clear()
    with pytest.raises(Unreadable):
        for id_ in ids_of(contents):
            await get(ends[1], id_)
    await ends[1].settle()
    answers = await put_all(ends[0], contents)
    assert {str(answer.durability) for answer in answers} == {"9/9; survives=3"}
    for id_, data in zip(ids_of(contents), contents, strict=True):
        assert await get(ends[1], id_) == data


# Rebuilding


async def test_a_rebuild_finds_the_contents(
    ends: Ends, nodes: MemoryCluster, metadata: Metadata, clock: Clock
) -> None:
    contents = [*small(10), os.urandom(20_000)]
    await bundled(ends, contents[:10])
    await put(ends[0], contents[10])
    for table in ("segment", "pin", "content", "content_segment"):
        await execute(metadata, f"DELETE FROM {table}")
    report = await Rebuild(metadata, nodes.cluster, ends[1]).run()
    assert (report.contents, report.broken_bundles) == (11, 0)
    for id_, data in zip(ids_of(contents), contents, strict=True):
        assert await get(ends[1], id_) == data


async def test_a_rebuild_beside_a_database_that_knows_brings_nothing_back(
    ends: Ends, nodes: MemoryCluster, metadata: Metadata, clock: Clock
) -> None:
    contents = small(10)
    await bundled(ends, contents)
    gone = ids_of(contents)[0]
    await metadata.unpin(gone)
    await Sweeper(metadata, nodes, clock).later()
    await metadata.collect(100)
    await Rebuild(metadata, nodes.cluster, ends[1]).run()
    with pytest.raises(NotFound):
        await ends[1].find(gone)


async def test_a_rebuild_tells_of_a_bundle_that_is_lost(
    ends: Ends, nodes: MemoryCluster, metadata: Metadata
) -> None:
    await bundled(ends, small(10))
    for number in (1, 2, 3, 4):
        nodes.stores[number].records.clear()
    for table in ("segment", "pin", "content", "content_segment"):
        await execute(metadata, f"DELETE FROM {table}")
    report = await Rebuild(metadata, nodes.cluster, ends[1]).run()
    assert (report.contents, report.broken_bundles) == (0, 1)


async def test_what_the_database_says_wrongly_of_a_bundle_is_not_served(
    ends: Ends, metadata: Metadata
) -> None:
    contents = small(3)
    await bundled(ends, contents)
    await execute(metadata, "UPDATE content SET start_bytes = start_bytes + 1")
    with pytest.raises(Unreadable, match="not where it should be"):
        await ends[1].read_small(await ends[1].find(ids_of(contents)[0]), 0, 300)


def test_groups_are_as_large_as_a_bundle_may_be() -> None:
    smalls = [Small(ContentId(os.urandom(32)), memoryview(os.urandom(5_000))) for _ in range(60)]
    found = list(groups(smalls))
    assert [each for group in found for each in group] == smalls
    sizes = [bundle_bytes([len(small.plain) for small in group]) for group in found]
    assert max(sizes) <= BUNDLE_BYTES < min(sizes[:-1]) + 5_004

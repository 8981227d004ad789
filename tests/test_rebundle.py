"""The space of small contents that are deleted, and the rebuild of the metadata."""

import os

import pytest

from common.bundle import bundle_bytes
from common.errors import NotFound, Unreadable
from common.ids import ContentId
from coordinator.bundler import BUNDLE_BYTES, Small
from coordinator.metadata import Metadata
from coordinator.rebuild import Rebuild
from coordinator.rebundle import groups
from tests.bundles import Ends, bundled, bundles_of, delete, ids_of, put_all, rebundler, small
from tests.memory_cluster import MemoryCluster, Sweeper, get, put
from tests.metadata_parts import Clock, execute


async def test_deleted_contents_go_and_the_rest_stays(
    ends: Ends, nodes: MemoryCluster, metadata: Metadata, clock: Clock
) -> None:
    contents = small(10)
    await bundled(ends, contents)
    assert await delete(metadata, nodes, clock, ids_of(contents)[:9]) == 9
    sweeper = Sweeper(metadata, nodes, clock)
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
    assert await delete(metadata, nodes, clock, ids_of(contents)[:4]) == 4
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
    await delete(metadata, nodes, clock, ids_of(contents)[:8])
    job = rebundler(ends, metadata)
    (bundle, parts), *_ = await metadata.rebundling.wasteful(10)
    smalls = await job._read(bundle, parts)
    await delete(metadata, nodes, clock, [ids_of(contents)[8]])
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
    await delete(metadata, nodes, clock, ids_of(contents)[:8])
    sweeper = Sweeper(metadata, nodes, clock)
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
    await delete(metadata, nodes, clock, [*ids_of(first)[1:], *ids_of(second)[1:]])
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

"""Small uploads that come together share a segment; each is a content like any other."""

import asyncio
import os

import pytest

from common.errors import NotFound, Undurable, Unreadable
from common.ids import ContentId, SegmentId
from common.units import KIB
from coordinator.bundler import BUNDLE_BYTES, SMALL_BYTES
from coordinator.metadata import Metadata
from tests.bundles import (
    Ends,
    all_wait,
    another_on_its_way,
    begun,
    bundled,
    bundles_of,
    ids_of,
    put_all,
    small,
)
from tests.memory_cluster import MemoryCluster, Sweeper, body, get, put
from tests.metadata_parts import Clock


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
    writes, contents = ends[0], small(100, 4 * KIB)
    async with another_on_its_way(writes):
        puts = begun(writes, contents)
        while sum(each.done() for each in puts) < 63:
            await asyncio.sleep(0)
        assert len(writes.bundler._waiting) == 100 - 63
    assert [(await each).new for each in puts] == [True] * 100


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
    """Before the bundle is begun, or while it is written. The others notice nothing."""
    writes, contents = ends[0], small(6)
    async with another_on_its_way(writes):
        puts = begun(writes, contents)
        await all_wait(writes, puts)
        puts[0].cancel()
        await asyncio.sleep(0)
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
    async with another_on_its_way(writes):
        puts = begun(writes, contents)
        await all_wait(writes, puts)
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
    async with another_on_its_way(writes):
        puts = begun(writes, contents)
        await all_wait(writes, puts)
    outcomes = await asyncio.gather(*puts, return_exceptions=True)
    assert [type(outcome) for outcome in outcomes] == [Undurable] * 4
    assert len({id(outcome) for outcome in outcomes}) == 4
    nodes.away.clear()
    await writes.settle()
    await Sweeper(metadata, nodes, clock).outbox()
    assert nodes.shards() == set()

"""Rot that nodes find by themselves: repair hears of it, also of what no layout names yet, and only
what nobody will come to need is dropped."""

import random

import pytest

from coordinator import rot as rot_job
from coordinator.metadata import StoredSegment
from coordinator.metadata.sql import Sql
from tests.metadata_parts import notice
from tests.test_draining import THREE_SEGMENTS, slow_upload
from tests.test_repair import check
from tests.torture.one_process import Store

ROTTEN = (1, 2, 3)  # nodes: as many as a segment can do without


async def rot(store: Store, number: int) -> None:
    """All that is on this node now rots, and its scrub finds it."""
    node = store.nodes[number]
    for info in await node.shards():
        assert node.flip(info.address, 5)
    assert node.store is not None
    while await node.store.scrub_once():
        pass
    await store._report(number)


def bad_shards(store: Store, number: int) -> int:
    held = store.nodes[number].store
    assert held is not None
    return held.upkeep.quarantine.bad_shards


async def put(store: Store) -> StoredSegment:
    data = random.Random(1).randbytes(5_000)
    front = store.fronts[0]
    return (await front.reads.find((await front.put(data)).id)).segments[0]


async def test_rot_is_mended_and_forgotten(store: Store) -> None:
    front, data = store.fronts[0], random.Random(1).randbytes(5_000)
    id_ = (await front.put(data)).id
    await rot(store, 3)
    assert bad_shards(store, 3) == 1
    await front.work("rot")
    await front.work("repair")
    await check(store, {id_: data})
    assert bad_shards(store, 3) == 0


async def test_rot_that_is_found_before_the_upload_is_over_is_mended_after_it(store: Store) -> None:
    front = store.fronts[0]
    go_on, upload = await slow_upload(front)
    for number in ROTTEN:
        await rot(store, number)
    await front.work("rot")
    go_on()
    stored = await upload
    assert all(bad_shards(store, number) for number in ROTTEN)
    await front.work("rot")
    await front.work("repair")
    await check(store, {stored.id: THREE_SEGMENTS})
    assert not any(bad_shards(store, number) for number in ROTTEN)


async def test_rot_that_nobody_needs_is_dropped_once_its_session_is_over(store: Store) -> None:
    front = store.fronts[0]
    stored = await put(store)
    await front.metadata._write(lambda sql: sql.run("DELETE FROM segment WHERE id = ?", stored.id))
    await rot(store, 3)
    await front.work("rot")
    assert bad_shards(store, 3) == 1
    await store.pass_time(200)
    await front.metadata._begin_session()
    await front.work("rot")
    assert bad_shards(store, 3) == 0


async def test_rot_of_a_segment_that_is_being_mended_is_kept(store: Store) -> None:
    """The layout may be about to name what repair has written there."""
    front = store.fronts[0]
    stored = await put(store)
    await front.metadata.queue_repair(notice(stored, 0))
    elsewhere = stored.layout[3]
    await rot(store, elsewhere)
    swapped = (*stored.layout[:3], stored.layout[0], *stored.layout[4:])

    def swap(sql: Sql) -> None:
        number = front.metadata._layouts.intern(swapped)
        sql.run("UPDATE segment SET layout = ? WHERE id = ?", number, stored.id)

    await front.metadata._write(swap)
    await store.pass_time(200)
    await front.metadata._begin_session()
    await front.work("rot")
    assert bad_shards(store, elsewhere) == 1


async def test_rot_of_a_read_only_node_is_told_page_by_page(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It drops nothing from its list: only the first page was ever told."""
    monkeypatch.setattr(rot_job, "AT_ONCE", 2)
    front, chance = store.fronts[0], random.Random(1)
    contents = [chance.randbytes(2_000) for _ in range(7)]
    data = {(await front.put(content)).id: content for content in contents}
    held = store.nodes[3].store
    assert held is not None
    held._make_read_only("EIO")
    await rot(store, 3)
    assert bad_shards(store, 3) == len(data)
    for _ in range(4):
        await front.work("rot")
    assert (await front.metadata.counts())["repair_queue"] == len(data)
    await front.work("repair")
    assert (await front.metadata.counts())["repair_queue"] == 0
    for id_ in data:
        (mended,) = (await front.reads.find(id_)).segments
        assert 3 not in mended.layout
    assert bad_shards(store, 3) == len(data)  # and from the first page on again, for ever


async def test_what_comes_before_the_page_that_was_told_is_told_in_the_next_turn(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rot_job, "AT_ONCE", 1)
    front = store.fronts[0]
    await put(store)
    await rot(store, 3)
    await front.work("rot")
    assert (await front.metadata.counts())["repair_queue"] == 1
    await front.metadata._write(lambda sql: sql.run("DELETE FROM repair_queue"))
    await front.work("rot")  # there is nothing behind it
    await front.work("rot")
    assert (await front.metadata.counts())["repair_queue"] == 1

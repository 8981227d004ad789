"""Nodes that are lost although there is some life in them: they serve a directory that was deleted,
report but cannot be reached, or can be reached but do not report."""

import random
import shutil

import pytest

from coordinator.node import NodeState
from tests.test_repair import check, filled
from tests.torture.one_process import GRACE_S, Front, Store

LOST_S = 901


def states(front: Front, numbers: tuple[int, ...]) -> set[NodeState]:
    members = front.cluster.membership
    return {members.state(members.nodes[number]) for number in numbers}


@pytest.mark.parametrize("end", [(), (2,)])
async def test_what_lost_nodes_still_serve_is_copied_off_them(
    store: Store, end: tuple[int, ...]
) -> None:
    """Of four nodes whose directories were deleted, more than a segment can do without. One may
    come to its end before its turn."""
    contents, front, detached = await filled(store), store.fronts[0], (2, 4, 6, 8)
    for number in detached:
        shutil.rmtree(store.nodes[number].path)
    await store.pass_time(2)
    assert states(front, detached) == {NodeState.DETACHED}
    await front.work("repair")
    assert {await segments_on(front, number) for number in detached} != {0}  # not yet
    await store.pass_time(LOST_S)
    assert states(front, detached) == {NodeState.LOST}
    for number in end:
        await store.kill(number)
    await front.work("repair")
    for number in detached:
        await front.draining.remove(f"node-{number}")
        await store.kill(number)
    await check(store, contents, survives=1)  # nine shards on five nodes


async def segments_on(front: Front, number: int) -> int:
    return (await front.draining.plan(front.cluster.membership.nodes[number])).segments


async def test_a_lost_node_that_comes_to_its_end_is_looked_for_at_once(store: Store) -> None:
    """What was only to be moved is short of shards now."""
    await filled(store)
    front = store.fronts[0]
    shutil.rmtree(store.nodes[3].path)
    await store.pass_time(2)
    for number in range(4, 10):
        store.nodes[number].cut_off = True  # so that nothing can be mended
    await store.pass_time(800)
    await front.work("repair")
    await store.pass_time(101)
    await front.work("repair")
    assert await queued(front) == {9}
    await store.kill(3)
    await front.work("repair")
    assert await queued(front) == {8}


async def queued(front: Front) -> set[int]:
    """How many survivors the segments in the repair queue have."""
    return set(await front.metadata.queued_by_survivors())


async def test_a_node_that_reports_but_is_never_reached_is_made_up_for(store: Store) -> None:
    contents, front = await filled(store), store.fronts[0]
    store.nodes[3].cut_off = True
    await store.pass_time(2)
    assert states(front, (3,)) == {NodeState.SUSPECT}
    await store.pass_time(LOST_S)
    assert states(front, (3,)) == {NodeState.LOST}
    await front.work("repair")
    await check(store, contents, survives=2)
    store.nodes[3].cut_off = False
    await store.pass_time(2)
    assert states(front, (3,)) == {NodeState.ACTIVE}


async def test_a_node_that_never_reports_again_does_not_stop_all_deletion(store: Store) -> None:
    """Until it is lost it is waited for: it may know that the database is a backup."""
    id_ = (await store.fronts[0].put(random.Random(1).randbytes(5_000))).id
    await store.fronts[0].metadata.unpin(id_)
    for front in store.fronts:
        await front.close()
    for front in store.fronts:
        await front.start()
        for node in front.cluster.membership.nodes.values():
            node.reachable = True  # they reported to others a moment ago
    store.nodes[3].mute = True
    front = store.fronts[0]
    await store.pass_time(GRACE_S + 100)
    await front.work("collect")
    assert (await front.metadata.counts())["segment"] == 1
    await store.pass_time(LOST_S)
    assert states(front, (3,)) == {NodeState.LOST}
    await front.metadata._begin_session()
    for job in ("collect", "sweep", "outbox"):
        await front.work(job)
    assert (await front.metadata.counts())["segment"] == 0
    held = {number for number in store.up if await store.nodes[number].shards()}
    assert held == {3}  # it has not said that this is the database that it knows

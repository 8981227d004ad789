"""Drain and remove, where things go otherwise than planned: nodes that are away, full, or forgotten
by another process."""

import asyncio
import random
from collections.abc import AsyncIterator, Callable
from dataclasses import replace

import pytest

from common.errors import Conflict, Undurable
from coordinator.metadata import Wish
from coordinator.node import NodeState
from coordinator.repair import SEARCH_AGAIN_DRAINING_S
from coordinator.write_upload import Stored
from sixfold.nodes_cli import _left
from tests.test_repair import check, filled
from tests.torture.one_process import SEGMENT_BYTES, Front, Store


async def segments_on(front: Front, number: int) -> int:
    return (await front.draining.plan(front.cluster.membership.nodes[number])).segments


async def test_the_plan_tells_which_zones_may_fail_then(store: Store) -> None:
    front = store.fronts[0]
    nodes = front.cluster.membership.nodes
    for number, node in nodes.items():
        node.row = replace(node.row, zone=f"rack-{number % 3}")
    plan = await front.draining.plan(nodes[1])
    assert (plan.survives, plan.survives_zones) == (2, 1)
    for number in (4, 7):  # of the same rack
        nodes[number].reachable = False
    plan = await front.draining.plan(nodes[1])
    assert (plan.survives, plan.survives_zones) == (1, 0)


async def test_what_a_drained_node_cannot_give_is_rebuilt(store: Store) -> None:
    """Nobody waits for it to come back."""
    contents = await filled(store)
    front = store.fronts[0]
    await store.kill(3)
    await front.work("repair")
    assert await segments_on(front, 3) > 0  # without the operator's word it is waited for
    await front.draining.drain("node-3", force=True, dry_run=False)
    await front.work("repair")
    assert await segments_on(front, 3) == 0
    await check(store, contents, survives=2)
    await front.draining.remove("node-3")


async def test_every_process_knows_of_a_wish_though_the_node_is_silent(store: Store) -> None:
    contents = await filled(store)
    first, second = store.fronts
    await store.kill(3)
    await first.draining.drain("node-3", force=True, dry_run=False)
    await second.cluster.membership.look()
    await second.work("repair")
    await check(store, contents, survives=2)
    await first.draining.remove("node-3")
    await second.cluster.membership.look()
    removed = second.cluster.membership.nodes[3]
    assert second.cluster.membership.state(removed) is NodeState.REMOVED


async def test_a_removed_node_stays_removed_whatever_a_process_believes(store: Store) -> None:
    first, second = store.fronts
    await first.draining.drain("node-3", force=True, dry_run=False)
    await first.draining.remove("node-3")
    for again in (
        second.draining.undrain("node-3"),
        second.draining.drain("node-3", force=True, dry_run=False),
        second.metadata.set_wish(3, Wish.ACTIVE),
    ):
        with pytest.raises(Conflict, match="removed for good"):
            await again
    assert [n.number for n in await first.metadata.nodes() if n.wish is Wish.REMOVED] == [3]


async def test_a_wish_that_another_process_has_noted_is_told_at_once(store: Store) -> None:
    """Else a drain that is waited for would seem to be taken back."""
    first, second = store.fronts
    for wish, begin in ((Wish.DRAINING, first.draining.drain("node-3", True, False)),
                        (Wish.ACTIVE, first.draining.undrain("node-3"))):  # fmt: skip
        await begin
        plan = await second.draining.drain("node-3", force=True, dry_run=True)
        assert plan["wish"] == wish
    await first.draining.drain("node-3", True, False)
    await first.draining.remove("node-3")
    with pytest.raises(Conflict, match="node-3 was removed for good"):
        await second.draining.drain("node-3", force=True, dry_run=True)


async def test_what_a_drained_node_keeps_as_deletes_are_stopped_is_told(store: Store) -> None:
    await filled(store)
    front = store.fronts[0]
    await front.metadata.stop_deletes("a look at it")
    await front.draining.drain("node-3", force=True, dry_run=False)
    await front.work("repair")
    await store.pass_time(2)
    plan = await front.draining.drain("node-3", force=True, dry_run=True)
    shards = len(await store.nodes[3].shards())
    assert (plan["state"], plan["segments"], plan["shards"]) == ("draining", 0, shards)
    assert _left(plan) == (
        f"0 segments left, 0 B; {shards} shards are to be deleted on it; but deletes are stopped: "
        "a look at it"
    )


async def test_a_drain_that_would_fill_the_other_nodes_is_refused(store: Store) -> None:
    await filled(store)
    front = store.fronts[0]
    for number, node in front.cluster.membership.nodes.items():
        if number != 3:
            assert node.report is not None
            node.report, node.sent_bytes = replace(node.report, free_bytes=10_000), 0
    with pytest.raises(Conflict, match="no room"):
        await front.draining.drain("node-3", force=True, dry_run=False)
    plan = await front.draining.drain("node-3", force=False, dry_run=True)
    assert plan["bytes"] > plan["free_bytes"] == 80_000


async def test_two_drains_that_do_not_fit_together_are_not_both_begun(store: Store) -> None:
    """The first has moved nothing yet when the second is asked for."""
    await filled(store)
    front = store.fronts[0]
    nodes = front.cluster.membership.nodes
    need_bytes = (await front.draining.plan(nodes[1])).bytes
    for node in nodes.values():
        assert node.report is not None
        node.report, node.sent_bytes = replace(node.report, free_bytes=need_bytes // 5), 0
    first = await front.draining.drain("node-1", force=True, dry_run=False)
    with pytest.raises(Conflict, match="no room"):
        await front.draining.drain("node-2", force=True, dry_run=False)
    second = await front.draining.drain("node-2", force=True, dry_run=True)
    assert second["free_bytes"] == need_bytes // 5 * 7 - first["bytes"]


async def test_what_is_stored_on_a_drained_node_by_who_did_not_know_is_moved_too(
    store: Store,
) -> None:
    first, second = store.fronts
    await first.draining.drain("node-3", force=True, dry_run=False)
    await first.work("repair")
    contents = await filled(store)
    assert await segments_on(second, 3) == 0
    data = bytes(50_000)
    contents[(await second.put(data)).id] = data  # it has not looked yet
    assert await segments_on(second, 3) == 1
    await store.pass_time(int(SEARCH_AGAIN_DRAINING_S))
    await first.work("repair")
    await check(store, contents, survives=2)
    await first.work("outbox")
    await store.pass_time(2)
    await first.draining.remove("node-3")


async def test_repair_does_not_wait_once_a_node_is_back(store: Store) -> None:
    contents = await filled(store)
    front = store.fronts[0]
    for number in (1, 2, 3, 4):
        await store.kill(number)
    await store.pass_time(901)
    for _ in range(8):
        await store.pass_time(600)
        await front.work("repair")
    for number in (1, 2, 3, 4):
        await store.restart(number)
    await front.work("repair")
    await check(store, contents)


THREE_SEGMENTS = random.Random(2).randbytes(3 * SEGMENT_BYTES)


async def slow_upload(front: Front) -> tuple[Callable[[], None], "asyncio.Task[Stored]"]:
    """An upload of THREE_SEGMENTS, of which all nodes have shards by now: what lets it go on, and
    its end."""
    go_on = asyncio.Event()

    async def body() -> AsyncIterator[bytes]:
        yield THREE_SEGMENTS[: 2 * SEGMENT_BYTES]
        await go_on.wait()
        yield THREE_SEGMENTS[2 * SEGMENT_BYTES :]

    task = asyncio.create_task(front.writes.store(body(), len(THREE_SEGMENTS)))
    nodes = front.cluster.reached.values()
    while not all([await node.shards() for node in nodes]):
        await asyncio.sleep(0.01)
    return go_on.set, task


async def take_away(store: Store, number: int) -> None:
    """As an operator does who takes no refusal."""
    draining = store.fronts[0].draining
    await draining.drain(f"node-{number}", force=True, dry_run=False)
    await store.fronts[0].work("repair")
    await store.pass_time(2)
    with pytest.raises(Conflict, match="still has 1 shards"):
        await draining.remove(f"node-{number}")
    await draining.remove(f"node-{number}", force=True)
    await store.kill(number)


async def test_an_upload_outlasts_a_node_that_has_shards_of_it(store: Store) -> None:
    front = store.fronts[0]
    go_on, upload = await slow_upload(front)
    await take_away(store, 3)
    go_on()
    stored = await upload
    assert str(stored.durability) == "8/9; survives=2"
    await front.work("repair")
    await check(store, {stored.id: THREE_SEGMENTS}, survives=2)


async def test_an_upload_is_refused_whose_nodes_are_taken_away(store: Store) -> None:
    front = store.fronts[0]
    go_on, upload = await slow_upload(front)
    for number in (1, 2, 3, 4):
        await take_away(store, number)
    go_on()
    with pytest.raises(Undurable, match="nodes were removed"):
        await upload
    await front.settle()
    assert (await front.metadata.counts())["segment"] == 0
    await front.work("outbox")
    assert not any([await store.nodes[number].shards() for number in store.up])

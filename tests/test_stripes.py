"""Writing a stripe: nine shards at once, spares for nodes that fail, an end to waiting."""

import asyncio
from collections.abc import Sequence

import pytest

from common.errors import (
    NodeTimeout,
    NodeUnreachable,
    StorageFull,
    Undurable,
)
from common.shards import ShardRecord
from coordinator.placement import Placement
from coordinator.write_stripe import StripeWrite
from tests.scripted_nodes import K, N, Nodes, records_of


def stripe_write(
    nodes: Nodes, records: list[ShardRecord], spares: Sequence[int] = (), straggler_s: float = 60.0
) -> StripeWrite:
    layout = tuple(range(1, N + 1)) if len(nodes.by_number) >= N else (1, 2, 3) * 3
    placement = Placement(layout, tuple(spares))
    return StripeWrite(nodes.cluster, records, placement, K, straggler_s)


async def test_all_nine_are_waited_for() -> None:
    nodes, records = Nodes(9), records_of(b"x" * 1000)
    nodes[9].hangs = True
    write = stripe_write(nodes, records)
    running = asyncio.create_task(write.run())
    await asyncio.sleep(0)
    assert not running.done()
    nodes[9].go_on()
    result = await running
    assert result.layout == tuple(range(1, 10))
    assert write.all_arrived
    assert write.shortfall() is None


async def test_the_ninth_is_given_up_after_its_time() -> None:
    nodes, records = Nodes(9), records_of(b"x" * 1000)
    nodes[4].hangs = True
    write = stripe_write(nodes, records, straggler_s=0.001)
    result = await write.run()
    assert result.layout == (1, 2, 3, 0, 5, 6, 7, 8, 9)
    assert [(u.node, u.addresses) for u in result.unconfirmed] == [(4, (records[3].address,))]
    assert write.shortfall() is None
    assert not write.all_arrived  # the socket may still hold its payload
    assert nodes[4].abandoned == 1


async def test_a_failed_node_is_replaced_by_the_best_spare() -> None:
    nodes, records = Nodes(12), records_of(b"x" * 1000)
    nodes[2].error = NodeTimeout("slow")
    nodes[10].error = StorageFull("full")
    result = await stripe_write(nodes, records, spares=(10, 11, 12)).run()
    assert result.layout == (1, 11, 3, 4, 5, 6, 7, 8, 9)
    assert {u.node for u in result.unconfirmed} == {2, 10}
    assert nodes[12].asked == 0


async def test_without_spares_shards_are_doubled_up() -> None:
    nodes, records = Nodes(9), records_of(b"x" * 1000)
    nodes.unreachable = {2, 4, 6}
    write = stripe_write(nodes, records)
    result = await write.run()
    assert set(result.layout) == {1, 3, 5, 7, 8, 9}
    assert max(result.layout.count(node) for node in result.layout) == 2
    assert write.shortfall() is None


@pytest.mark.parametrize("dead", [range(3, 10), range(1, 10)])
async def test_too_few_nodes_is_an_error_that_names_them(dead: range) -> None:
    nodes, records = Nodes(9), records_of(b"x" * 1000)
    for number in dead:
        nodes[number].error = NodeUnreachable("gone")
    write = stripe_write(nodes, records)
    await write.run()
    shortfall = write.shortfall()
    assert isinstance(shortfall, Undurable)
    assert all(f"node-{number}" in str(shortfall) for number in dead)
    assert {s.node for s in write.written().shards()} >= set(dead)


async def test_full_nodes_are_told_from_dead_ones() -> None:
    nodes, records = Nodes(9), records_of(b"x" * 1000)
    for number in range(1, 10):
        nodes[number].error = StorageFull("full")
    write = stripe_write(nodes, records)
    await write.run()
    assert isinstance(write.shortfall(), StorageFull)


async def test_a_cancelled_write_names_all_it_may_have_written() -> None:
    nodes, records = Nodes(9), records_of(b"x" * 1000)
    for number in (7, 8, 9):
        nodes[number].hangs = True
    write = stripe_write(nodes, records)
    running = asyncio.create_task(write.run())
    await asyncio.sleep(0)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert {s.node for s in write.written().shards()} == set(range(1, 10))
    assert all(nodes[number].abandoned == 1 for number in (7, 8, 9))

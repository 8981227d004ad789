"""Reading a part of a stripe while nodes are known to be slow: it goes around them, though that is
more to ask for than the part alone."""

import os

import pytest

from coordinator.latency import AVOIDED_S, MISSES, HedgePolicy, SlowNodes
from tests.metadata_parts import Clock
from tests.scripted_nodes import K, N, Nodes
from tests.test_stripe_reads import read, stored

DATA = os.urandom(10_000)
PART = 2  # the shard that is wanted, on node 3


def policy(*slow: int, delay_s: float = 60.0, clock: Clock | None = None) -> HedgePolicy:
    """These nodes were too slow several times in a row, and no extra request is allowed."""
    hedge = HedgePolicy(delay_s, delay_s, delay_s)
    hedge.slow_nodes = SlowNodes(clock or Clock())
    for number in slow:
        for _ in range(MISSES):
            hedge.slow_nodes.missed(number)
    while hedge.take(1):
        pass
    return hedge


async def read_part(nodes: Nodes, hedge: HedgePolicy) -> list[int]:
    """How often each node was asked."""
    segment = stored(nodes, DATA)
    at = PART * segment.shard_bytes
    got, _ = await read(nodes, segment, wanted=[PART], hedge=hedge)
    assert got[at : at + segment.shard_bytes] == DATA[at : at + segment.shard_bytes]
    return [nodes[number].asked for number in range(1, N + 1)]


@pytest.mark.parametrize("slow", [(3,), (1, 3, 9)])
async def test_a_range_goes_around_a_slow_node(slow: tuple[int, ...]) -> None:
    """It waited for the hedge each time, and for the node itself once no hedge was allowed."""
    nodes = Nodes(N)
    for number in slow:
        nodes[number].hangs = True
    asked = await read_part(nodes, policy(*slow))
    assert sum(asked) == K
    assert not any(asked[number - 1] for number in slow)


@pytest.mark.parametrize("away", [(), (8, 9)])
async def test_a_slow_node_that_there_is_no_way_around_is_asked(away: tuple[int, ...]) -> None:
    """And no other in vain: all others together are too few."""
    nodes = Nodes(N)
    nodes.unreachable = set(away)
    slow = (1, 3, 5, 7)[: 4 - len(away)]
    assert await read_part(nodes, policy(*slow)) == [0, 0, 1, 0, 0, 0, 0, 0, 0]


async def test_what_stands_in_for_a_lost_shard_comes_from_nodes_that_are_not_slow() -> None:
    nodes = Nodes(N)
    nodes.unreachable = {3}
    nodes[1].hangs = nodes[4].hangs = True
    assert await read_part(nodes, policy(1, 4)) == [0, 1, 0, 0, 1, 1, 1, 1, 1]


async def test_a_probe_that_is_late_needs_no_allowance() -> None:
    """Else whoever makes it waits as long as the node takes."""
    nodes, clock = Nodes(N), Clock()
    hedge = policy(3, delay_s=0.001, clock=clock)
    clock.now_s += AVOIDED_S
    nodes[3].hangs = True
    assert sum(await read_part(nodes, hedge)) == 1 + K
    assert nodes[3].abandoned == 1
    assert await read_part(nodes, hedge) == [2, 2, 1, 2, 2, 2, 2, 0, 0]  # it is not its turn


async def test_a_probe_that_is_in_time_ends_the_detour() -> None:
    nodes, clock = Nodes(N), Clock()
    hedge = policy(3, clock=clock)
    clock.now_s += AVOIDED_S
    for times in (1, 2):
        assert await read_part(nodes, hedge) == [0, 0, times, 0, 0, 0, 0, 0, 0]

"""Reading a stripe: the first k good shards, with hedges, whatever is lost."""

import asyncio
import itertools
import os
import threading
import time
from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import cast

import pytest

from common.codec import Codec
from common.errors import (
    NodeTimeout,
    Unreadable,
)
from common.shards import Encoding, ShardRecord
from coordinator.latency import AVOIDED_S, MISSES, PROBE_S, HedgePolicy, SlowNodes
from coordinator.metadata import StoredSegment
from coordinator.offload import Offload
from coordinator.read_stripe import StripeRead
from coordinator.services import Services
from coordinator.stripe_rows import WholeStripe
from tests.metadata_parts import Clock
from tests.scripted_nodes import CODEC, K, N, Nodes, records_of

WAYS = ("error", "missing", "unreachable", "short", "rotten", "other")


def stored(nodes: Nodes, data: bytes, layout: tuple[int, ...] | None = None) -> StoredSegment:
    records = records_of(data)
    layout = layout or tuple(range(1, N + 1))
    for record, node in zip(records, layout, strict=True):
        if node:
            nodes[node].held[record.address] = record
    checksums = b"".join(record.info.checksum for record in records)
    id_ = records[0].address.segment
    return StoredSegment(id_, len(data), Encoding.PLAIN, K, N, 1, layout, checksums)


async def read(
    nodes: Nodes,
    segment: StoredSegment,
    wanted: Sequence[int] = range(K),
    hedge: HedgePolicy | None = None,
    codec: Codec = CODEC,
) -> tuple[bytes, StripeRead]:
    stripe = memoryview(bytearray(N * segment.shard_bytes))
    hedge = hedge or HedgePolicy(60.0, 60.0, 60.0)
    offload = Offload()
    try:
        services = cast(
            Services, SimpleNamespace(cluster=nodes.cluster, codec=codec, offload=offload)
        )
        one = StripeRead(services, hedge, segment, WholeStripe(codec, stripe, segment), wanted)
        await one.run()
    finally:
        offload.close()
    return bytes(stripe[: segment.size_bytes]), one


async def test_healthy_reads_ask_for_the_data_shards_only() -> None:
    nodes, data = Nodes(9), os.urandom(10_000)
    assert (await read(nodes, stored(nodes, data)))[0] == data
    assert [nodes[number].asked for number in range(1, 10)] == [1] * 6 + [0] * 3


async def test_a_range_asks_for_its_shards_only() -> None:
    nodes, data = Nodes(9), os.urandom(10_000)
    segment = stored(nodes, data)
    got, _ = await read(nodes, segment, wanted=[2])
    at = 2 * segment.shard_bytes
    assert got[at : at + segment.shard_bytes] == data[at : at + segment.shard_bytes]
    assert [nodes[number].asked for number in range(1, 10)] == [0, 0, 1] + [0] * 6


def lose(nodes: Nodes, segment: StoredSegment, number: int, how: str) -> None:
    node, address = nodes[number], segment.address(number - 1)
    record = node.held[address]
    if how == "error":
        node.error = NodeTimeout("slow")
    elif how == "missing":
        del node.held[address]
    elif how == "unreachable":
        nodes.unreachable.add(number)
    elif how == "short":
        node.held[address] = ShardRecord(record.info, bytes(record.payload)[:-1])
    elif how == "rotten":
        node.held[address] = ShardRecord(record.info, bytes(len(record.payload)))
    elif how == "other":
        node.held[address] = ShardRecord(record.info, os.urandom(len(record.payload)))


@pytest.mark.parametrize("lost", list(itertools.combinations(range(1, 10), 3)))
async def test_any_three_shards_may_be_lost_in_any_way(lost: tuple[int, ...]) -> None:
    for shift, wanted in ((0, range(K)), (1, [lost[0] % K]), (2, range(K))):
        nodes, data = Nodes(9), os.urandom(5_001)
        segment = stored(nodes, data)
        for at, number in enumerate(lost):
            lose(nodes, segment, number, WAYS[(sum(lost) + at + 2 * shift) % len(WAYS)])
        got, _ = await read(nodes, segment, wanted)
        for index in wanted:
            at = index * segment.shard_bytes
            assert got[at : at + segment.shard_bytes] == data[at : at + segment.shard_bytes]


@pytest.mark.parametrize("how", WAYS)
async def test_four_lost_shards_are_an_error_that_counts_them(how: str) -> None:
    nodes, data = Nodes(9), os.urandom(5_000)
    segment = stored(nodes, data)
    for number in (1, 4, 7, 9):
        lose(nodes, segment, number, how)
    with pytest.raises(Unreadable, match=r"^4 of 9 shards"):
        await read(nodes, segment)


async def test_large_segments_are_verified_in_threads() -> None:
    nodes, data = Nodes(9), os.urandom(600_000)
    segment = stored(nodes, data)
    for number, how in ((1, "rotten"), (6, "missing"), (8, "other")):
        lose(nodes, segment, number, how)
    got, one = await read(nodes, segment)
    assert got == data
    assert one.bad == {0: "fails its checksum", 5: "is gone", 7: "fails its checksum"}


async def test_shards_that_were_never_stored_are_made_up_for() -> None:
    nodes, data = Nodes(9), os.urandom(5_000)
    segment = stored(nodes, data, (1, 0, 3, 4, 5, 6, 7, 8, 9))
    got, one = await read(nodes, segment)
    assert got == data
    assert one.bad == {}


@pytest.mark.parametrize("busy_s", [0, 0.02])
async def test_a_slow_shard_is_hedged(busy_s: float) -> None:
    """And no other, though the loop is busy for longer than the delay."""
    nodes, data = Nodes(9), os.urandom(5_000)
    segment = stored(nodes, data)
    nodes[3].hangs = True
    hedge = HedgePolicy(0.001, 0.001, 1.0)
    reading = asyncio.create_task(read(nodes, segment, hedge=hedge))
    asyncio.get_running_loop().call_soon(time.sleep, busy_s)  # once all have been asked
    got, _ = await reading
    assert got == data
    assert nodes[3].abandoned == 1
    assert sum(nodes[number].asked for number in (7, 8, 9)) == 1


class InterruptedCodec(Codec):
    """Lets something happen on the event loop right after the missing shards were computed."""

    def __init__(self, meanwhile: Callable[[], None]) -> None:
        super().__init__(K, N)
        self._loop, self._meanwhile = asyncio.get_running_loop(), meanwhile

    def recover_in_place(
        self, stripe: memoryview, segment_bytes: int, have: Sequence[int], missing: Sequence[int]
    ) -> None:
        super().recover_in_place(stripe, segment_bytes, have, missing)
        happened = threading.Event()
        self._loop.call_soon_threadsafe(self._meanwhile)
        self._loop.call_soon_threadsafe(happened.set)
        assert happened.wait(10)


async def test_a_shard_that_comes_too_late_does_not_replace_what_was_computed() -> None:
    nodes, data = Nodes(9), os.urandom(6 * 40_000)  # enough for a thread
    segment = stored(nodes, data)
    nodes[1].hangs = True
    late = nodes[1].held[segment.address(0)]
    nodes[1].held[segment.address(0)] = ShardRecord(late.info, bytes(len(late.payload)))  # rotten
    codec = InterruptedCodec(nodes[1].go_on)
    got, _ = await read(nodes, segment, hedge=HedgePolicy(0.001, 0.001, 1.0), codec=codec)
    assert got == data
    assert nodes[1].abandoned == 1


async def test_a_shard_that_was_given_up_is_asked_for_again_if_another_is_rotten() -> None:
    nodes, data = Nodes(9), os.urandom(6 * 40_000)
    segment = stored(nodes, data)
    nodes[1].hangs = True
    for number in (7, 8, 9):  # every parity shard that could take its place
        lose(nodes, segment, number, "rotten")
    reading = asyncio.create_task(read(nodes, segment, hedge=HedgePolicy(0.001, 0.001, 1.0)))
    while nodes[1].asked < 2:
        await asyncio.sleep(0)
    nodes[1].go_on()
    assert (await reading)[0] == data


async def test_hedges_are_bounded() -> None:
    nodes, data = Nodes(9), os.urandom(5_000)
    segment = stored(nodes, data)
    nodes[3].hangs = True
    hedge = HedgePolicy(0.0, 0.0, 1.0)
    while hedge.take(1):
        pass
    waiting = asyncio.create_task(read(nodes, segment, hedge=hedge))
    for _ in range(50):
        await asyncio.sleep(0)
    assert not waiting.done()
    assert sum(nodes[number].asked for number in (7, 8, 9)) == 0
    nodes[3].go_on()
    assert (await waiting)[0] == data


async def test_hedging_follows_the_percentile() -> None:
    hedge = HedgePolicy(1.0, 0.01, 5.0)
    for number in range(256):
        hedge.answered(0.1 if number % 50 else 0.5)
    assert hedge.delay_s == 0.5
    for _ in range(256):
        hedge.answered(0.001)
    assert hedge.delay_s == 0.01


async def test_an_empty_segment() -> None:
    nodes = Nodes(9)
    assert (await read(nodes, stored(nodes, b""), wanted=[]))[0] == b""


async def slow_reads(nodes: Nodes, hedge: HedgePolicy, count: int) -> None:
    """Reads of segments whose data shard 2 is on node 3."""
    for _ in range(count):
        data = os.urandom(1000)
        assert (await read(nodes, stored(nodes, data), hedge=hedge))[0] == data


async def test_a_node_that_is_slow_again_and_again_is_asked_last() -> None:
    """Not to hedge, which would be over the allowance soon, but not to ask it at all."""
    nodes, hedge = Nodes(9), HedgePolicy(0.1, 0.1, 1.0)  # the others answer at once
    clock = Clock()
    hedge.slow_nodes = SlowNodes(clock)
    nodes[3].hangs = True
    await slow_reads(nodes, hedge, 3)
    assert (nodes[3].asked, nodes[7].asked) == (3, 3)
    await slow_reads(nodes, hedge, 50)
    assert (nodes[3].asked, nodes[7].asked, nodes[8].asked) == (3, 53, 0)
    clock.now_s += AVOIDED_S
    await slow_reads(nodes, hedge, 2)
    assert nodes[3].asked == 4  # it was given a chance
    nodes[3].go_on()
    clock.now_s += AVOIDED_S
    await slow_reads(nodes, hedge, 20)
    assert nodes[3].asked == 24


async def test_one_read_at_a_time_asks_a_slow_node_again() -> None:
    """All that would ask it at once would wait for it at once."""
    nodes, hedge = Nodes(9), HedgePolicy(0.1, 0.1, 1.0)
    clock = Clock()
    hedge.slow_nodes = SlowNodes(clock)
    for _ in range(MISSES):
        hedge.slow_nodes.missed(3)
        hedge.slow_nodes.missed(8)
    clock.now_s += AVOIDED_S
    nodes[3].hangs = True
    await asyncio.gather(*(slow_reads(nodes, hedge, 1) for _ in range(5)))
    assert (nodes[3].asked, nodes[8].asked) == (1, 0)
    nodes[3].go_on()
    clock.now_s += AVOIDED_S
    await slow_reads(nodes, hedge, 5)
    assert nodes[3].asked == 6  # it was in time, and counts as well again


async def test_a_probe_that_came_to_nothing_is_made_again() -> None:
    slow = SlowNodes(clock := Clock())
    for _ in range(MISSES):
        slow.missed(3)
    assert (3 in slow, slow.probe(3)) == (True, False)
    clock.now_s += AVOIDED_S
    assert (slow.probe(3), slow.probe(3)) == (True, False)
    clock.now_s += PROBE_S
    assert (slow.probe(3), slow.probe(3), 3 in slow) == (True, False, True)


async def test_when_more_are_late_than_others_can_stand_in_for_none_of_them_is_slow() -> None:
    """It is the machine, or this process. Were they all avoided, the one that really is slow would
    be asked with them."""
    nodes, data = Nodes(9), os.urandom(5_000)
    hedge = HedgePolicy(0.001, 0.001, 1.0)
    segment = stored(nodes, data)
    for number in (1, 2, 4, 5):
        nodes[number].hangs = True
    reading = asyncio.create_task(read(nodes, segment, hedge=hedge))
    await asyncio.sleep(0.02)
    assert sum(nodes[number].asked for number in (7, 8, 9)) == 0
    nodes[1].go_on()
    assert (await reading)[0] == data
    assert sum(nodes[number].asked for number in (7, 8, 9)) == 3
    missed = [number for number in range(1, 10) if hedge.slow_nodes.misses(number)]
    assert missed == [2, 4, 5]


async def test_of_slow_nodes_the_slowest_is_asked_last() -> None:
    nodes, hedge = Nodes(9), HedgePolicy(60.0, 60.0, 60.0)
    for number in (1, 2, 3, 4, 5):
        for _ in range(MISSES + (number == 3)):
            hedge.slow_nodes.missed(number)
    nodes[3].hangs = True
    data = os.urandom(1000)
    assert (await read(nodes, stored(nodes, data), hedge=hedge))[0] == data
    assert nodes[3].asked == 0


async def test_slow_nodes_are_asked_if_there_are_no_others() -> None:
    nodes, hedge = Nodes(9), HedgePolicy(60.0, 60.0, 60.0)
    for number in range(1, 7):
        for _ in range(MISSES):
            hedge.slow_nodes.missed(number)
    data = os.urandom(1000)
    assert (await read(nodes, stored(nodes, data), hedge=hedge))[0] == data
    assert sum(nodes[number].asked for number in range(1, 10)) == K
    before = sum(nodes[number].asked for number in range(1, 10))
    await read(nodes, stored(nodes, data), wanted=[2], hedge=hedge)
    assert sum(nodes[number].asked for number in range(1, 10)) == before + 1  # not six


async def test_a_single_miss_is_no_slowness() -> None:
    slow = SlowNodes(Clock())
    for _ in range(MISSES * 5):
        slow.missed(1)
        slow.missed(1)
        slow.in_time(1)
        assert 1 not in slow

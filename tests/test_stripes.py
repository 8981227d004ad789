"""The two fan-out policies against stores whose every answer the test decides."""

import asyncio
import itertools
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any, cast

import pytest

from common.codec import Codec
from common.errors import (
    NodeTimeout,
    NodeUnreachable,
    SixfoldError,
    StorageFull,
    Undurable,
    Unreadable,
)
from common.hashing import blake3_digest
from common.ids import SegmentId, ShardAddress
from common.shards import Encoding, ShardInfo, ShardMissing, ShardRecord
from coordinator.cluster import Cluster
from coordinator.latency import HedgePolicy
from coordinator.metadata import StoredSegment
from coordinator.offload import Offload
from coordinator.placement import Placement
from coordinator.read_stripe import StripeRead
from coordinator.services import Services
from coordinator.write_stripe import StripeWrite

K, N = 6, 9
CODEC = Codec(K, N)
Answers = list[ShardRecord | ShardMissing]


@dataclass
class Node:
    """A store that does its work only when the test has not told it otherwise."""

    held: dict[ShardAddress, ShardRecord] = field(default_factory=dict)
    error: SixfoldError | None = None
    hangs: bool = False
    answers: "list[asyncio.Future[Any]]" = field(default_factory=list)
    waiting: list[Callable[[], None]] = field(default_factory=list)

    def append(self, records: Sequence[ShardRecord]) -> "asyncio.Future[None]":
        def store() -> None:
            self.held.update((r.address, ShardRecord(r.info, bytes(r.payload))) for r in records)

        return self._answer(store)

    def read(
        self, addresses: Sequence[ShardAddress], into: Sequence[memoryview]
    ) -> "asyncio.Future[Answers]":
        def answer() -> Answers:
            records = [self.held.get(address, ShardMissing(address)) for address in addresses]
            for record, place in zip(records, into, strict=True):
                if isinstance(record, ShardRecord) and len(record.payload) == len(place):
                    place[:] = record.payload
            return records

        return self._answer(answer)

    def _answer(self, work: Callable[[], Any]) -> "asyncio.Future[Any]":
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self.answers.append(future)

        def settle() -> None:
            if not future.done():
                future.set_result(work())

        if self.error is not None:
            future.set_exception(self.error)
        elif self.hangs:
            self.waiting.append(settle)
        else:
            settle()
        return future

    @property
    def asked(self) -> int:
        return len(self.answers)

    @property
    def abandoned(self) -> int:
        return sum(answer.cancelled() for answer in self.answers)

    def go_on(self) -> None:
        self.hangs = False
        while self.waiting:
            self.waiting.pop(0)()


class Nodes:
    """As much of a Cluster as the policies use."""

    def __init__(self, count: int) -> None:
        self.by_number = {number: Node() for number in range(1, count + 1)}
        self.unreachable: set[int] = set()
        self.membership = SimpleNamespace(
            count_sent=lambda number, size: None,
            is_readable=lambda number: number not in self.unreachable,
        )

    def __getitem__(self, number: int) -> Node:
        return self.by_number[number]

    def store(self, number: int) -> Node:
        if number in self.unreachable:
            raise NodeUnreachable(f"node-{number} is away")
        return self.by_number[number]

    def node_name(self, number: int) -> str:
        return f"node-{number}"

    @property
    def cluster(self) -> Cluster:
        return cast(Cluster, self)


def records_of(data: bytes, generation: int = 1) -> list[ShardRecord]:
    id_ = SegmentId(blake3_digest(data))
    return [
        ShardRecord(
            ShardInfo(
                ShardAddress(id_, generation, index), K, N, len(data), Encoding.PLAIN,
                len(shard), blake3_digest(shard),
            ),
            bytes(shard),
        )
        for index, shard in enumerate(CODEC.encode(data))
    ]  # fmt: skip


def stripe_write(
    nodes: Nodes, records: list[ShardRecord], spares: Sequence[int] = (), straggler_s: float = 60.0
) -> StripeWrite:
    layout = tuple(range(1, N + 1)) if len(nodes.by_number) >= N else (1, 2, 3) * 3
    placement = Placement(layout, tuple(spares))
    return StripeWrite(nodes.cluster, records, placement, K, straggler_s)


# Writing


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


# Reading


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
) -> tuple[bytes, StripeRead]:
    stripe = memoryview(bytearray(N * segment.shard_bytes))
    hedge = hedge or HedgePolicy(60.0, 60.0, 60.0)
    offload = Offload()
    try:
        services = cast(
            Services, SimpleNamespace(cluster=nodes.cluster, codec=CODEC, offload=offload)
        )
        one = StripeRead(services, hedge, segment, stripe, wanted)
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


WAYS = ("error", "missing", "unreachable", "short", "rotten", "other")


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


async def test_a_slow_shard_is_hedged() -> None:
    nodes, data = Nodes(9), os.urandom(5_000)
    segment = stored(nodes, data)
    nodes[3].hangs = True
    got, _ = await read(nodes, segment, hedge=HedgePolicy(0.001, 0.001, 1.0))
    assert got == data
    assert nodes[3].abandoned == 1
    assert sum(nodes[number].asked for number in (7, 8, 9)) == 1


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
        hedge.answered(0.1 if number % 10 else 0.5)
    assert hedge.delay_s == 0.5
    for _ in range(256):
        hedge.answered(0.001)
    assert hedge.delay_s == 0.01


async def test_an_empty_segment() -> None:
    nodes = Nodes(9)
    assert (await read(nodes, stored(nodes, b""), wanted=[]))[0] == b""

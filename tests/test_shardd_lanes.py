"""Reads, appends and deletes over lanes, against a client that does as it is told."""

import asyncio
from pathlib import Path

import pytest

from common.errors import (
    Corrupt,
    StoreReadOnly,
    Unavailable,
)
from common.record import shard_header, tombstone_header, unpack_header
from common.shards import ShardRecord
from common.units import KIB, MIB
from common.wire import (
    FrameKind,
    LaneKind,
    pack_frame,
    unpack_error,
)
from tests.lane_client import LIMITS, Client, open_lane
from tests.stores import ServedNode, make_shard, served_node


@pytest.mark.parametrize("size", [0, 1, 4 * KIB, 64 * KIB - 1, 64 * KIB, 300 * KIB, MIB])
async def test_a_shard_goes_in_and_comes_out(writer: Client, reader: Client, size: int) -> None:
    shard = make_shard(size)
    writer.append(7, shard)
    assert await writer.next() == (FrameKind.OK, 7, b"", b"")
    reader.send(FrameKind.READ, 9, shard.address.key)
    kind, request, meta, payload = await reader.next()
    assert (kind, request, payload) == (FrameKind.RECORD, 9, shard.payload)
    header = unpack_header(meta)
    assert (header.info, header.sequence) == (shard.info, 1)


async def test_the_largest_shard(tmp_path: Path) -> None:
    shard = make_shard(16 * MIB)
    async with served_node(tmp_path) as node:
        writer, reader = [await open_lane(node, kind) for kind in LaneKind]
        writer.append(1, shard)
        assert (await writer.next())[0] == FrameKind.OK
        reader.send(FrameKind.READ, 1, shard.address.key)
        assert (await reader.next())[3] == shard.payload


async def test_what_is_not_there_is_missing(reader: Client) -> None:
    reader.send(FrameKind.READ, 3, make_shard(10).address.key)
    assert await reader.next() == (FrameKind.MISSING, 3, b"", b"")


async def test_deleting_over_a_lane(writer: Client, reader: Client) -> None:
    shards = [make_shard(size, seed) for seed in range(3) for size in (10, 100 * KIB)]
    for request, shard in enumerate(shards, 1):
        writer.append(request, shard)
    await writer.answers(len(shards))
    writer.delete(50, *(shard.address for shard in shards[:4]))
    assert (await writer.next())[:2] == (FrameKind.OK, 50)
    for request, shard in enumerate(shards):
        reader.send(FrameKind.READ, request, shard.address.key)
    kinds = {request: frame[0] for request, frame in (await reader.answers(6)).items()}
    assert [kinds[request] for request in range(6)] == 4 * [FrameKind.MISSING] + 2 * [
        FrameKind.RECORD
    ]


async def test_many_small_requests_are_answered_together(writer: Client, reader: Client) -> None:
    shards = [make_shard(200, seed) for seed in range(150)]
    frames = [
        pack_frame(FrameKind.APPEND, request, shard_header(shard.info), 200) + bytes(shard.payload)
        for request, shard in enumerate(shards)
    ]
    writer.arrivals = 0
    writer.transport.write(b"".join(frames))
    answers = await writer.answers(len(shards))
    assert {frame[0] for frame in answers.values()} == {FrameKind.OK}
    assert writer.arrivals <= 5
    reads = [pack_frame(FrameKind.READ, r, s.address.key) for r, s in enumerate(shards)]
    reader.transport.write(b"".join(reads))
    found = await reader.answers(len(shards))
    assert all(found[request][3] == shard.payload for request, shard in enumerate(shards))


async def test_what_only_the_index_knows_is_found(tmp_path: Path) -> None:
    """After a restart nothing is in memory."""
    shards = [make_shard(size, seed) for seed in range(40) for size in (200, 70 * KIB)]
    async with served_node(tmp_path) as node:
        await node.store.append(shards)
    async with served_node(tmp_path) as node:
        reader = await open_lane(node, LaneKind.READ)
        for request, shard in enumerate([*shards, make_shard(1), *shards]):
            reader.send(FrameKind.READ, request, shard.address.key)
        found = await reader.answers(2 * len(shards) + 1)
        assert found[len(shards)][0] == FrameKind.MISSING
        del found[len(shards)]
        payloads = [found[request][3] for request in sorted(found)]
        assert payloads == 2 * [shard.payload for shard in shards]


async def test_an_index_that_fails_is_an_error_over_the_lane(
    node: ServedNode, reader: Client
) -> None:
    node.store._catalog.close()
    reader.send(FrameKind.READ, 1, make_shard(10).address.key)
    kind, request, meta, _ = await reader.next()
    assert (kind, request) == (FrameKind.ERROR, 1)
    assert isinstance(unpack_error(meta), Unavailable)


async def test_each_request_has_its_own_answer(writer: Client) -> None:
    good, bad = make_shard(100, 1), make_shard(100, 2)
    large, bad_large = make_shard(100 * KIB, 3), make_shard(100 * KIB, 4)
    writer.append(1, good)
    writer.append(2, ShardRecord(bad.info, bytes(100)))
    writer.append(3, large)
    writer.append(4, ShardRecord(bad_large.info, bytes(100 * KIB)))
    writer.send(FrameKind.APPEND, 5, bytes(128), bytes(100))
    writer.send(FrameKind.APPEND, 6, bytes(128), bytes(100 * KIB))
    writer.send(FrameKind.APPEND, 7, tombstone_header(good.address, 0))
    writer.send(FrameKind.PING, 8)
    answers = await writer.answers(8)
    kinds = [answers[request][0] for request in range(1, 9)]
    ok, error = FrameKind.OK, FrameKind.ERROR
    assert kinds == [ok, error, ok, error, error, error, error, ok]
    for request in (2, 4, 5, 6, 7):
        assert isinstance(unpack_error(answers[request][2]), Corrupt)


async def test_large_shards_pass_through_a_small_pool(
    node: ServedNode, writer: Client, reader: Client
) -> None:
    """More is on its way than there are buffers: the lane stops reading and goes on."""
    shards = [make_shard(400 * KIB, seed) for seed in range(30)]
    for start in range(0, 30, 10):
        for request, shard in enumerate(shards[start : start + 10], start):
            writer.append(request, shard)
        answers = await writer.answers(10)
        assert {frame[0] for frame in answers.values()} == {FrameKind.OK}
    for request, shard in enumerate(shards):
        reader.send(FrameKind.READ, request, shard.address.key)
    found = await reader.answers(30)
    assert all(found[request][3] == shard.payload for request, shard in enumerate(shards))
    assert node.store.write_buffers.lent_bytes == 0
    assert node.store.write_buffers._idle_bytes <= MIB


async def test_a_reader_who_does_not_read_is_waited_for(node: ServedNode, reader: Client) -> None:
    """Answers stay on disk until the peer takes them, and then all come."""
    shards = [make_shard(60 * KIB, seed) for seed in range(150)]
    shards += [make_shard(900 * KIB, seed) for seed in range(10)]
    for shard in shards:
        await node.store.append([shard])
    reader.transport.pause_reading()
    for request, shard in enumerate(shards):
        reader.send(FrameKind.READ, request, shard.address.key)
    (lane,) = [lane for lane in node.lanes.lanes if lane._peer == _name(reader)]
    while lane.unsent_bytes == 0:
        await asyncio.sleep(0.001)
    for _ in range(100):  # however long it takes, not much more is read from disk
        await asyncio.sleep(0)
    assert lane.unsent_bytes < LIMITS.unsent_bytes + 3 * MIB
    reader.transport.resume_reading()
    found = await reader.answers(len(shards))
    assert all(found[request][3] == shard.payload for request, shard in enumerate(shards))


def _name(client: Client) -> tuple[str, int]:
    name: tuple[str, int] = client.transport.get_extra_info("sockname")
    return name


async def test_a_read_only_store_says_so_over_the_lane(node: ServedNode, writer: Client) -> None:
    node.store._writer.failure = "for this test"
    writer.append(1, make_shard(10))
    writer.append(2, make_shard(100 * KIB))
    writer.delete(3, make_shard(10).address)
    answers = await writer.answers(3)
    assert {type(unpack_error(frame[2])) for frame in answers.values()} == {StoreReadOnly}
    assert node.store.write_buffers.lent_bytes == 0

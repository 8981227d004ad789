"""Peers that break the rules of a lane, or go away in the middle: refused, and nothing leaks."""

import asyncio
import errno
import threading
from pathlib import Path

import pytest

from common.errors import ProtocolError, Unavailable
from common.ids import ShardAddress
from common.record import shard_header
from common.units import KIB, MIB
from common.wire import (
    FRAME,
    HELLO,
    FrameKind,
    LaneKind,
    pack_frame,
    unpack_error,
)
from shardd.buffers import AlignedBuffer
from shardd.disk import RealDisk
from shardd.store import StoreLimits
from tests.lane_client import LIMITS, Client, open_lane
from tests.stores import ServedNode, make_shard, served_node


@pytest.mark.parametrize(
    ("kind", "meta", "payload"),
    [
        (FrameKind.READ, bytes(41), b""),
        (FrameKind.DELETE, bytes(41), b""),
        (FrameKind.DELETE, bytes(8 + 41 * 1025), b""),
        (FrameKind.DELETE, bytes(8 + 41), b"payload"),
        (FrameKind.PING, b"", bytes(MIB)),
        (FrameKind.HELLO, bytes(HELLO.size), b""),
        (77, b"", b""),
    ],
)
async def test_what_a_write_lane_does_not_take(
    writer: Client, kind: int, meta: bytes, payload: bytes
) -> None:
    writer.send(kind, 1, meta, payload)
    assert isinstance(await writer.refusal(), ProtocolError)


@pytest.mark.parametrize(
    ("kind", "meta", "payload"),
    [
        (FrameKind.APPEND, bytes(128), b"x"),
        (FrameKind.APPEND, bytes(128), bytes(MIB)),
        (FrameKind.DELETE, bytes(8 + 41), b""),
        (FrameKind.READ, bytes(40), b""),
        (FrameKind.READ, bytes(41), b"x"),
    ],
)
async def test_what_a_read_lane_does_not_take(
    reader: Client, kind: int, meta: bytes, payload: bytes
) -> None:
    reader.send(kind, 1, meta, payload)
    assert isinstance(await reader.refusal(), ProtocolError)


async def test_an_oversized_frame_ends_the_lane(writer: Client) -> None:
    writer.transport.write(FRAME.pack(2**31, 1, 128, FrameKind.APPEND) + bytes(128))
    assert isinstance(await writer.refusal(), ProtocolError)


async def test_a_window_is_a_promise(node: ServedNode, reader: Client) -> None:
    key = make_shard(10).address.key
    reads = (pack_frame(FrameKind.READ, request, key) for request in range(201))
    reader.transport.write(b"".join(reads))
    while (frame := await reader.next())[0] == FrameKind.MISSING:
        pass
    assert isinstance(unpack_error(frame[2]), ProtocolError)
    assert frame[1] == 0


class StuckDisk(RealDisk):
    """Syncs nothing until it is let go."""

    def __init__(self) -> None:
        self.go = threading.Event()

    def fdatasync(self, fd: int) -> None:
        self.go.wait()
        super().fdatasync(fd)


async def test_a_window_counts_bytes(tmp_path: Path) -> None:
    disk = StuckDisk()
    async with served_node(tmp_path, LIMITS, disk=disk) as node:
        writer = await open_lane(node, LaneKind.WRITE)
        try:
            for request in range(11):  # 4.3 MiB, of which none can be answered
                writer.append(request, make_shard(400 * KIB, request))
            assert isinstance(await writer.refusal(), ProtocolError)
        finally:
            disk.go.set()
    assert node.store.write_buffers.lent_bytes == 0


async def test_a_lane_without_a_buffer_is_not_read_from(tmp_path: Path) -> None:
    """Only what had begun to arrive lies beside the pool."""
    disk, limits = StuckDisk(), StoreLimits(write_buffer_bytes=MIB)
    async with served_node(tmp_path, LIMITS, limits, disk) as node:
        writer = await open_lane(node, LaneKind.WRITE)
        try:
            for request in range(9):
                writer.append(request, make_shard(400 * KIB, request))
            pool = node.store.write_buffers
            while not pool._uncounted:
                await asyncio.sleep(0.001)
            for _ in range(100):
                await asyncio.sleep(0)
                assert len(pool._uncounted) == 1
        finally:
            disk.go.set()
        answers = await writer.answers(9)
        assert {frame[0] for frame in answers.values()} == {FrameKind.OK}
    assert pool.lent_bytes == 0


async def test_what_came_together_with_nonsense_leaks_nothing(node: ServedNode) -> None:
    """The lane ends before the end of the turn, when it would have been handed to the writer."""
    client, shard = await open_lane(node, LaneKind.WRITE), make_shard(70 * KIB)
    (lane,) = node.lanes.lanes
    head = pack_frame(FrameKind.APPEND, 1, shard_header(shard.info), len(shard.payload))
    together = head + bytes(shard.payload) + pack_frame(FrameKind.HELLO, 2)
    lane.get_buffer(len(together))[: len(together)] = together
    lane.buffer_updated(len(together))
    assert node.store.write_buffers.lent_bytes > 0
    assert isinstance(await client.refusal(), ProtocolError)
    while node.lanes.lanes:
        await asyncio.sleep(0.001)
    assert node.store.write_buffers.lent_bytes == 0


async def test_a_peer_that_goes_away_in_a_payload_leaks_nothing(node: ServedNode) -> None:
    client = await open_lane(node, LaneKind.WRITE)
    shard = make_shard(300 * KIB)
    client.append(1, shard)
    head = pack_frame(FrameKind.APPEND, 2, shard_header(shard.info), 300 * KIB)
    client.transport.write(head + bytes(100 * KIB))
    await client.next()
    client.transport.abort()
    while node.lanes.lanes:
        await asyncio.sleep(0.001)
    assert node.store.write_buffers.lent_bytes == 0
    assert [info.address async for info in node.store.list()] == [shard.address]


async def test_a_peer_that_goes_away_before_its_answers(node: ServedNode) -> None:
    writer, reader = [await open_lane(node, kind) for kind in LaneKind]
    shards = [make_shard(200 * KIB, seed) for seed in range(3)]
    await node.store.append(shards)
    for request, shard in enumerate(shards):
        writer.append(request, shard._replace(payload=shard.payload))
        reader.send(FrameKind.READ, request, shard.address.key)
    await writer.next()
    writer.transport.abort()
    reader.transport.abort()
    while node.lanes.lanes or node.store.write_buffers.lent_bytes:
        await asyncio.sleep(0.001)
    addresses: list[ShardAddress] = [info.address async for info in node.store.list()]
    assert len(addresses) == 3


async def test_a_lane_for_whose_payload_there_is_no_memory_ends_and_says_why(
    node: ServedNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_memory(*_: object) -> None:
        raise OSError(errno.ENOMEM, "planned")

    shard = make_shard(100 * KIB)
    client = await open_lane(node, LaneKind.WRITE)
    monkeypatch.setattr(AlignedBuffer, "__init__", no_memory)
    head = pack_frame(FrameKind.APPEND, 1, shard_header(shard.info), len(shard.payload))
    client.transport.write(head)
    refusal = await client.refusal()
    assert isinstance(refusal, Unavailable) and "no memory" in str(refusal)
    monkeypatch.undo()
    again = await open_lane(node, LaneKind.WRITE)
    again.append(1, shard)
    assert (await again.next())[0] == FrameKind.OK
    again.transport.abort()


async def test_closing_the_server_ends_its_lanes(tmp_path: Path) -> None:
    async with served_node(tmp_path) as node:
        clients = [await open_lane(node, kind) for kind in LaneKind]
        await node.lanes.close()
        for client in clients:
            assert await client.frames.get() is None

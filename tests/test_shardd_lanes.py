"""The data port, against a client that does as it is told, right or wrong."""

import asyncio
import secrets
import threading
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest

from common.auth import ClusterSecret
from common.errors import (
    Corrupt,
    ProtocolError,
    SixfoldError,
    StoreReadOnly,
    Unauthorized,
    Unavailable,
    WrongCluster,
    WrongNode,
)
from common.framing import FrameReceiver
from common.ids import ShardAddress
from common.record import shard_header, tombstone_header, unpack_header
from common.shards import ShardRecord
from common.units import KIB, MIB
from common.wire import (
    CHALLENGE,
    FRAME,
    HELLO,
    PROTOCOL_VERSION,
    WELCOME,
    FrameKind,
    LaneKind,
    pack_frame,
    unpack_error,
)
from shardd.disk import Disk
from shardd.identity import DataDirectory
from shardd.lanes import LaneServer
from shardd.service import LaneLimits
from shardd.store import StoreLimits, VolumeStore
from tests.stores import SECRET, ServedNode, make_shard, served_node

Frame = tuple[int, int, bytes, bytes]  # kind, request, meta, payload


class Client(FrameReceiver):
    """Sends raw frames, collects what comes back."""

    def __init__(self) -> None:
        super().__init__()
        self.frames: asyncio.Queue[Frame | None] = asyncio.Queue()
        self.arrivals = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)  # uvloop's is not a subclass

    def frame_received(
        self, kind: int, request: int, meta: memoryview | bytes, payload: memoryview
    ) -> None:
        self.frames.put_nowait((kind, request, bytes(meta), bytes(payload)))

    def turn_ended(self) -> None:
        self.arrivals += 1

    def protocol_failed(self, error: ProtocolError) -> None:
        raise error

    def connection_lost(self, exc: Exception | None) -> None:
        self.frames.put_nowait(None)

    def send(
        self, kind: int, request: int = 0, meta: bytes = b"", payload: bytes | memoryview = b""
    ) -> None:
        head = FRAME.pack(len(payload), request, len(meta), kind)
        self.transport.writelines([head, meta, payload])

    async def next(self) -> Frame:
        frame = await self.frames.get()
        assert frame is not None, "the node closed the lane"
        return frame

    async def answers(self, count: int) -> dict[int, Frame]:
        """By request number."""
        frames = [await self.next() for _ in range(count)]
        return {frame[1]: frame for frame in frames}

    async def refusal(self) -> SixfoldError:
        """The error that the node gives before it closes."""
        kind, request, meta, _ = await self.next()
        assert (kind, request) == (FrameKind.ERROR, 0)
        assert await self.frames.get() is None
        return unpack_error(meta)

    def append(self, request: int, shard: ShardRecord) -> None:
        self.send(FrameKind.APPEND, request, shard_header(shard.info), bytes(shard.payload))


async def connect(port: int) -> Client:
    _, client = await asyncio.get_running_loop().create_connection(Client, "127.0.0.1", port)
    return client


def hello(
    node: ServedNode,
    kind: int = LaneKind.WRITE,
    version: int = PROTOCOL_VERSION,
    cluster: bytes | None = None,
    node_id: bytes | None = None,
) -> bytes:
    identity = node.directory.identity
    return HELLO.pack(
        version, kind, cluster or identity.cluster_bytes, node_id or identity.node_bytes,
        secrets.token_bytes(32),
    )  # fmt: skip


async def challenged(client: Client, said: bytes) -> bytes:
    """The node's nonce, after it has proved itself."""
    client.send(FrameKind.HELLO, 0, said)
    kind, _, meta, _ = await client.next()
    if kind == FrameKind.ERROR:
        raise unpack_error(meta)
    assert kind == FrameKind.CHALLENGE
    nonce, proof = CHALLENGE.unpack(meta)
    assert proof == SECRET.lane_proof(b"node", said, nonce)
    return bytes(nonce)


async def open_lane(node: ServedNode, kind: LaneKind) -> Client:
    client, said = await connect(node.data_port), hello(node, kind)
    nonce = await challenged(client, said)
    client.send(FrameKind.PROOF, 0, SECRET.lane_proof(b"coordinator", said, nonce))
    frame_kind, _, meta, _ = await client.next()
    assert frame_kind == FrameKind.WELCOME
    limits = node.lanes.limits
    assert WELCOME.unpack(meta) == (limits.window_bytes, limits.window_requests)
    return client


LIMITS = LaneLimits(window_bytes=4 * MIB, window_requests=200)


@pytest.fixture
async def node(tmp_path: Path) -> AsyncIterator[ServedNode]:
    limits = StoreLimits(write_buffer_bytes=MIB, read_buffer_bytes=MIB)
    async with served_node(tmp_path, LIMITS, limits) as served:
        yield served


@pytest.fixture
async def writer(node: ServedNode) -> AsyncIterator[Client]:
    client = await open_lane(node, LaneKind.WRITE)
    yield client
    client.transport.close()


@pytest.fixture
async def reader(node: ServedNode) -> AsyncIterator[Client]:
    client = await open_lane(node, LaneKind.READ)
    yield client
    client.transport.close()


# Opening


async def test_another_secret_is_refused(node: ServedNode) -> None:
    client, said = await connect(node.data_port), hello(node)
    nonce = await challenged(client, said)
    stranger = ClusterSecret(b"another secret altogether")
    client.send(FrameKind.PROOF, 0, stranger.lane_proof(b"coordinator", said, nonce))
    assert isinstance(await client.refusal(), Unauthorized)


async def test_the_nodes_own_proof_does_not_open_a_lane(node: ServedNode) -> None:
    client, said = await connect(node.data_port), hello(node)
    nonce = await challenged(client, said)
    client.send(FrameKind.PROOF, 0, SECRET.lane_proof(b"node", said, nonce))
    assert isinstance(await client.refusal(), Unauthorized)


async def test_a_proof_of_another_lane_is_refused(node: ServedNode) -> None:
    first, said = await connect(node.data_port), hello(node)
    proof = SECRET.lane_proof(b"coordinator", said, await challenged(first, said))
    second = await connect(node.data_port)
    await challenged(second, said)
    second.send(FrameKind.PROOF, 0, proof)
    assert isinstance(await second.refusal(), Unauthorized)
    first.transport.close()


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"cluster": b"x" * 16}, WrongCluster),
        ({"node_id": b"x" * 16}, WrongNode),
        ({"version": 2}, ProtocolError),
        ({"kind": 3}, ProtocolError),
    ],
)
async def test_a_wrong_hello_is_refused(
    node: ServedNode, change: dict[str, Any], error: type[SixfoldError]
) -> None:
    client = await connect(node.data_port)
    client.send(FrameKind.HELLO, 0, hello(node, **change))
    assert type(await client.refusal()) is error


@pytest.mark.parametrize(
    ("kind", "meta", "payload"),
    [
        (FrameKind.PING, b"", b""),
        (FrameKind.PROOF, bytes(32), b""),
        (FrameKind.HELLO, b"short", b""),
        (FrameKind.HELLO, bytes(HELLO.size), b"payload"),
        (FrameKind.APPEND, bytes(128), bytes(MIB)),
        (FrameKind.APPEND, bytes(128), b"small"),
        (99, b"", b""),
    ],
)
async def test_nothing_but_a_handshake_is_taken_first(
    node: ServedNode, kind: int, meta: bytes, payload: bytes
) -> None:
    client = await connect(node.data_port)
    client.send(kind, 0, meta, payload)
    assert isinstance(await client.refusal(), ProtocolError)


async def test_requests_between_hello_and_proof_are_refused(node: ServedNode) -> None:
    client = await connect(node.data_port)
    await challenged(client, hello(node))
    client.append(1, make_shard(10))
    assert isinstance(await client.refusal(), ProtocolError)
    assert (await node.store.stat()).shards == 0


async def test_garbage_is_refused(node: ServedNode) -> None:
    client = await connect(node.data_port)
    client.transport.write(b"GET / HTTP/1.1\r\nHost: node\r\n\r\n")
    assert isinstance(await client.refusal(), ProtocolError)


@pytest.mark.parametrize("after_hello", [False, True])
async def test_silence_is_not_waited_for(tmp_path: Path, after_hello: bool) -> None:
    async with served_node(tmp_path, replace(LIMITS, handshake_s=0.05)) as node:
        client = await connect(node.data_port)
        if after_hello:
            await challenged(client, hello(node))
        assert isinstance(await client.refusal(), ProtocolError)


async def test_a_lane_outlives_the_deadline_of_its_handshake(tmp_path: Path) -> None:
    async with served_node(tmp_path, replace(LIMITS, handshake_s=0.05)) as node:
        client, silent = await open_lane(node, LaneKind.WRITE), await connect(node.data_port)
        await silent.refusal()  # the deadline of one that came later has passed
        client.send(FrameKind.PING, 5)
        assert (await client.next())[:2] == (FrameKind.OK, 5)


async def test_a_node_that_has_not_joined_takes_no_lane(tmp_path: Path) -> None:
    directory = DataDirectory(tmp_path)
    store = await VolumeStore.open(directory)
    lanes = LaneServer(store, directory, SECRET)
    client = await connect(await lanes.start("127.0.0.1", 0))
    said = HELLO.pack(
        PROTOCOL_VERSION, LaneKind.READ, bytes(16), directory.identity.node_bytes, bytes(32)
    )
    client.send(FrameKind.HELLO, 0, said)
    assert isinstance(await client.refusal(), Unavailable)
    await lanes.close()
    await store.close()
    directory.close()


async def test_a_swapped_disk_is_seen_when_a_lane_opens(node: ServedNode, tmp_path: Path) -> None:
    (tmp_path / "node.json").rename(tmp_path / "aside")
    client = await connect(node.data_port)
    client.send(FrameKind.HELLO, 0, hello(node))
    assert isinstance(await client.refusal(), WrongNode)


# Working


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
    keys = b"".join(shard.address.key for shard in shards[:4])
    writer.send(FrameKind.DELETE, 50, keys)
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
    writer.send(FrameKind.DELETE, 3, make_shard(10).address.key)
    answers = await writer.answers(3)
    assert {type(unpack_error(frame[2])) for frame in answers.values()} == {StoreReadOnly}
    assert node.store.write_buffers.lent_bytes == 0


# Breaking the rules


@pytest.mark.parametrize(
    ("kind", "meta", "payload"),
    [
        (FrameKind.READ, bytes(41), b""),
        (FrameKind.DELETE, bytes(42), b""),
        (FrameKind.DELETE, bytes(41 * 1025), b""),
        (FrameKind.DELETE, bytes(41), b"payload"),
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
        (FrameKind.DELETE, bytes(41), b""),
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


class StuckDisk(Disk):
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


async def test_closing_the_server_ends_its_lanes(tmp_path: Path) -> None:
    async with served_node(tmp_path) as node:
        clients = [await open_lane(node, kind) for kind in LaneKind]
        await node.lanes.close()
        for client in clients:
            assert await client.frames.get() is None

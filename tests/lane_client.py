"""A client of a node's data port that does as it is told, right or wrong."""

import asyncio
import secrets
from typing import cast

from common.errors import (
    ProtocolError,
    SixfoldError,
)
from common.framing import FrameReceiver
from common.ids import ShardAddress
from common.record import shard_header
from common.shards import ShardRecord
from common.units import MIB
from common.wire import (
    CHALLENGE,
    FRAME,
    HELLO,
    PROTOCOL_VERSION,
    WELCOME,
    FrameKind,
    LaneKind,
    pack_deletes,
    unpack_error,
)
from shardd.service import LaneLimits
from tests.stores import SECRET, ServedNode

LIMITS = LaneLimits(window_bytes=4 * MIB, window_requests=200)
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

    def delete(self, request: int, *addresses: ShardAddress, epoch: int = 0) -> None:
        self.send(FrameKind.DELETE, request, pack_deletes(epoch, addresses))


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
    client, limits = await lane_to(node.data_port, hello(node, kind))
    assert limits == (node.lanes.limits.window_bytes, node.lanes.limits.window_requests)
    return client


async def lane_to(port: int, said: bytes) -> tuple[Client, tuple[int, ...]]:
    """A lane opened with this hello, and its window."""
    client = await connect(port)
    nonce = await challenged(client, said)
    client.send(FrameKind.PROOF, 0, SECRET.lane_proof(b"coordinator", said, nonce))
    frame_kind, _, meta, _ = await client.next()
    assert frame_kind == FrameKind.WELCOME
    return client, WELCOME.unpack(meta)

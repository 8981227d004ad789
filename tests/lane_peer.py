"""The node's end of a lane under a test's control: it shakes hands and then does as told."""

import asyncio
import secrets
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import cast

from common.auth import ClusterSecret
from common.framing import FrameReceiver
from common.wire import CHALLENGE, NONCE_BYTES, WELCOME, FrameKind, pack_frame

SECRET = ClusterSecret(b"0123456789abcdef0123456789abcdef")
CLUSTER, NODE = bytes(16), bytes(range(16))


@dataclass(slots=True)
class Asked:
    """A frame that arrived."""

    kind: int
    request: int
    meta: bytes
    payload: bytes


class PeerProtocol(FrameReceiver):
    """One connection. Everything but the handshake goes to the peer's `on_ask`."""

    def __init__(self, peer: "Peer") -> None:
        super().__init__()
        self._peer = peer
        self._hello = b""
        self.transport: asyncio.Transport | None = None
        self.turns: list[int] = []  # how many frames each arrival brought
        self._in_turn = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports are asyncio's in all but name.
        self.transport = cast(asyncio.Transport, transport)
        self._peer.connections.append(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self._peer.lost.set()

    def frame_received(
        self, kind: int, request: int, meta: memoryview | bytes, payload: memoryview
    ) -> None:
        if kind == FrameKind.HELLO:
            self._hello = bytes(meta)
            nonce = secrets.token_bytes(NONCE_BYTES)
            proof = self._peer.secret.lane_proof(b"node", self._hello, nonce)
            self.send(FrameKind.CHALLENGE, 0, CHALLENGE.pack(nonce, proof))
        elif kind == FrameKind.PROOF:
            self.send(FrameKind.WELCOME, 0, WELCOME.pack(*self._peer.window))
        elif kind == FrameKind.PING:
            if self._peer.answers_pings:
                self.send(FrameKind.OK, request)
        else:
            self._in_turn += 1
            self._peer.take(self, Asked(kind, request, bytes(meta), bytes(payload)))

    def turn_ended(self) -> None:
        if self._in_turn:
            self.turns.append(self._in_turn)
            self._in_turn = 0

    def protocol_failed(self, error: Exception) -> None:
        assert self.transport is not None
        self.transport.abort()

    def send(self, kind: FrameKind, request: int, meta: bytes = b"", payload: bytes = b"") -> None:
        self.send_raw(pack_frame(kind, request, meta, len(payload)) + payload)

    def send_raw(self, data: bytes) -> None:
        assert self.transport is not None
        self.transport.write(data)


@dataclass
class Peer:
    """A listening data port. `script` is called for every request; without one they pile up in
    `asked`."""

    secret: ClusterSecret = SECRET
    window: tuple[int, int] = (64 << 20, 1000)
    answers_pings: bool = True
    script: Callable[[PeerProtocol, Asked], None] | None = None
    asked: list[Asked] = field(default_factory=list)
    connections: list[PeerProtocol] = field(default_factory=list)
    lost: asyncio.Event = field(default_factory=asyncio.Event)
    address: tuple[str, int] = ("", 0)
    _arrival: asyncio.Event = field(default_factory=asyncio.Event)
    _server: asyncio.Server | None = None

    async def __aenter__(self) -> "Peer":
        await self.listen(0)
        return self

    async def __aexit__(self, *error: object) -> None:
        await self.stop()

    async def listen(self, port: int) -> None:
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(lambda: PeerProtocol(self), "127.0.0.1", port)
        self.address = self._server.sockets[0].getsockname()[:2]

    async def stop(self) -> None:
        """Close the port and every connection."""
        assert self._server is not None
        self._server.close()
        for connection in self.connections:
            if connection.transport is not None:
                connection.transport.abort()
        await self._server.wait_closed()

    @property
    def connection(self) -> PeerProtocol:
        return self.connections[-1]

    def take(self, connection: PeerProtocol, asked: Asked) -> None:
        self.asked.append(asked)
        self._arrival.set()
        if self.script is not None:
            self.script(connection, asked)

    async def arrived(self, count: int) -> None:
        """Wait until so many requests have arrived."""
        await self.until(lambda: len(self.asked) >= count)

    async def until(self, condition: Callable[[], bool]) -> None:
        while not condition():
            self._arrival.clear()
            await self._arrival.wait()


async def settled(turns: int = 20) -> None:
    """Let everything that is ready in the event loop happen, sockets included."""
    for _ in range(turns):
        await asyncio.sleep(0)

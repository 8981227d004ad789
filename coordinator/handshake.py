"""Opens a lane: both sides prove that they hold the cluster secret before anything else."""

import asyncio
import hmac
import secrets
from typing import cast

from common.auth import ClusterSecret
from common.errors import NodeTimeout, NodeUnreachable, ProtocolError, SixfoldError, Unauthorized
from common.framing import FrameReceiver, kind_name
from common.wire import (
    CHALLENGE,
    HELLO,
    NONCE_BYTES,
    PROTOCOL_VERSION,
    WELCOME,
    FrameKind,
    LaneKind,
    pack_frame,
    unpack_error,
)
from coordinator.lanes import Lane, LaneLimits

HANDSHAKE_S = 5.0


class _Handshake(FrameReceiver):
    """Our side of it. `welcome` gives the node's window in bytes and requests."""

    def __init__(self, secret: ClusterSecret, kind: LaneKind, cluster: bytes, node: bytes) -> None:
        super().__init__()
        self._secret = secret
        nonce = secrets.token_bytes(NONCE_BYTES)
        self._hello = HELLO.pack(PROTOCOL_VERSION, kind, cluster, node, nonce)
        self._transport: asyncio.Transport | None = None
        self._proved = False
        self.welcome: asyncio.Future[tuple[int, int]] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports are asyncio's in all but name.
        self._transport = cast(asyncio.Transport, transport)
        self._transport.write(pack_frame(FrameKind.HELLO, 0, self._hello))

    def frame_received(
        self, kind: int, request: int, meta: memoryview | bytes, payload: memoryview
    ) -> None:
        try:
            self._step(kind, meta)
        except SixfoldError as error:
            self._refuse(error)

    def _step(self, kind: int, meta: memoryview | bytes) -> None:
        if kind == FrameKind.ERROR:
            raise unpack_error(meta)
        if kind == FrameKind.CHALLENGE and len(meta) == CHALLENGE.size and not self._proved:
            self._prove(*CHALLENGE.unpack(meta))
        elif kind == FrameKind.WELCOME and len(meta) == WELCOME.size and self._proved:
            if not self.welcome.done():
                self.welcome.set_result(WELCOME.unpack(meta))
        else:
            raise ProtocolError(f"the node sent {kind_name(kind)} while the lane was opened")

    def _prove(self, nonce: bytes, proof: bytes) -> None:
        expected = self._secret.lane_proof(b"node", self._hello, nonce)
        if not hmac.compare_digest(proof, expected):
            raise Unauthorized("the node does not hold the cluster secret")
        self._proved = True
        assert self._transport is not None
        ours = self._secret.lane_proof(b"coordinator", self._hello, nonce)
        self._transport.write(pack_frame(FrameKind.PROOF, 0, ours))

    def protocol_failed(self, error: ProtocolError) -> None:
        self._refuse(error)

    def connection_lost(self, exc: Exception | None) -> None:
        self._refuse(NodeUnreachable("the node closed the lane while it was opened"))

    def _refuse(self, error: SixfoldError) -> None:
        if not self.welcome.done():
            self.welcome.set_exception(error)


async def open_lane(
    name: str,
    address: tuple[str, int],
    kind: LaneKind,
    secret: ClusterSecret,
    cluster: bytes,
    node: bytes,
    limits: LaneLimits,
) -> Lane:
    """Connect to the data port at `address`; `cluster` and `node` are the ids expected there.

    Raises NodeUnreachable, NodeTimeout, Unauthorized, or what the node refuses with.
    """
    loop = asyncio.get_running_loop()
    handshake = _Handshake(secret, kind, cluster, node)
    transport: asyncio.Transport | None = None
    try:
        async with asyncio.timeout(HANDSHAKE_S):
            transport, _ = await loop.create_connection(lambda: handshake, *address)
            window_bytes, window_requests = await handshake.welcome
    except BaseException as error:
        if transport is not None:
            transport.abort()
        if isinstance(error, TimeoutError):
            raise NodeTimeout(f"{name}: no lane within {HANDSHAKE_S} s") from None
        if isinstance(error, OSError):
            raise NodeUnreachable(f"{name}: {error.strerror or error}") from None
        raise
    lane = Lane(name, transport, window_bytes, window_requests, limits)
    transport.set_protocol(lane)
    return lane

"""One lane: a pipelined stream of requests to the data port of a node (common/wire.py).

Small frames that are queued within one turn of the event loop leave in one write, and at most
two such batches are unanswered: an idle store adds no delay, a busy one batches by itself. A
large payload leaves at once, as header and memoryview. Credits bound what is in flight.

A lane that falls silent, breaks its protocol or lets a deadline pass is closed, and everything
that waits on it fails at once; `coordinator/links.py` opens the next.
"""

import asyncio
from collections import deque
from dataclasses import dataclass
from functools import partial
from typing import Any

from common.errors import NodeTimeout, NodeUnreachable, ProtocolError, SixfoldError
from common.framing import LARGE_PAYLOAD_BYTES, FrameReceiver, kind_name
from common.ids import ShardAddress
from common.record import RecordHeader, unpack_header
from common.shards import Buffer, ShardMissing, ShardRecord
from common.units import MIB
from common.wire import FrameKind, pack_frame, unpack_error
from coordinator.lane_request import Batch, Request

# Globals: looking an enum's member up on its class takes nearly as long as to unpack a frame.
_OK, _RECORD = FrameKind.OK, FrameKind.RECORD
MAX_UNANSWERED_BATCHES = 2
# Large payloads wait here, where they can be given up, and not in the transport, as long as it
# has so much that the node does not take: each holds on to the memory of a whole stripe.
UNSENT_BYTES = 2 * MIB
NO_REQUEST = 0


@dataclass(frozen=True, slots=True)
class LaneLimits:
    """`request_s` bounds one request; a lane from which nothing came for `silence_s`, although
    it was asked every `ping_s`, is dead."""

    request_s: float
    ping_s: float = 1.0
    silence_s: float = 4.0


class Lane(FrameReceiver):
    """An open lane. Made by `coordinator/handshake.py`; lives until `closed` is done."""

    def __init__(
        self,
        name: str,
        transport: asyncio.Transport,
        window_bytes: int,
        window_requests: int,
        limits: LaneLimits,
    ) -> None:
        super().__init__()
        self._name, self._transport, self._limits = name, transport, limits
        self._loop = asyncio.get_running_loop()
        self._free_bytes, self._free_requests = window_bytes, window_requests
        self._window_bytes = window_bytes
        self._waiting: deque[tuple[int, Request]] = deque()  # for credits
        self._small: list[tuple[int, Request]] = []  # for the next batch
        self._flush_planned = False
        self._congested = False  # the transport has enough to send
        transport.set_write_buffer_limits(UNSENT_BYTES)
        self._unanswered_batches = 0
        self._sent: dict[int, Request] = {}  # in order of sending, so of deadlines
        self._receiving: Request | None = None  # its `into` is being filled
        self._next_request = NO_REQUEST
        self._heard_s = self._pinged_s = self._watched_s = self._loop.time()
        self.closed: asyncio.Future[SixfoldError] = self._loop.create_future()
        self._timer = self._loop.call_later(limits.ping_s / 2, self._watch)

    # Asking

    def ask(
        self,
        kind: FrameKind,
        meta: bytes,
        payload: Buffer = b"",
        *,
        answer_bytes: int = 0,
        address: ShardAddress | None = None,
        into: memoryview | None = None,
    ) -> "asyncio.Future[Any]":
        """The answer: for a READ a list of one ShardRecord or ShardMissing, so that it is what
        ShardStore.read answers, else None. Cancelling the future abandons the request; `into` is
        then left alone."""
        future: asyncio.Future[Any] = self._loop.create_future()
        if self.closed.done():
            future.set_exception(_again(self.closed.result()))
            return future
        self._next_request = (self._next_request % 0xFFFF_FFFF) + 1
        number = self._next_request
        frame = pack_frame(kind, number, meta, len(payload))
        cost_bytes = min(len(frame) + len(payload) + answer_bytes, self._window_bytes)
        request = Request(frame, payload, future, cost_bytes, address, into)
        if len(payload) >= LARGE_PAYLOAD_BYTES or answer_bytes >= LARGE_PAYLOAD_BYTES:
            future.add_done_callback(partial(self._let_go, request))
        self._waiting.append((number, request))
        self._admit()
        return future

    def _admit(self) -> None:
        """Move waiting requests on, as far as credits go."""
        while self._waiting and self._free_requests > 0:
            number, request = self._waiting[0]
            if request.future.done():
                self._waiting.popleft()
                continue
            is_large = len(request.payload) >= LARGE_PAYLOAD_BYTES
            if request.cost_bytes > self._free_bytes or (is_large and self._congested):
                return
            self._waiting.popleft()
            self._free_bytes -= request.cost_bytes
            self._free_requests -= 1
            if is_large:
                self._mark_sent(number, request)
                self._transport.writelines((request.frame, request.payload))
            else:
                self._small.append((number, request))
                self._plan_flush()

    def _let_go(self, request: Request, future: "asyncio.Future[Any]") -> None:
        """Nobody waits any more: do not hold the memory of whoever did."""
        request.payload = b""
        if future.cancelled():
            self._leave_place(request)
        request.into = None

    def pause_writing(self) -> None:
        self._congested = True

    def resume_writing(self) -> None:
        self._congested = False
        if not self.closed.done():
            self._admit()

    def _plan_flush(self) -> None:
        if not self._flush_planned and self._unanswered_batches < MAX_UNANSWERED_BATCHES:
            self._flush_planned = True
            self._loop.call_soon(self._flush)

    def _flush(self) -> None:
        self._flush_planned = False
        if not self._small or self.closed.done():
            return
        batch, pieces = Batch(), list[Buffer]()
        for number, request in self._small:
            request.batch = batch
            batch.unanswered += 1
            self._mark_sent(number, request)
            pieces.append(request.frame)
            if request.payload:
                pieces.append(request.payload)
        self._small.clear()
        self._unanswered_batches += 1
        self._transport.write(b"".join(pieces))

    def _mark_sent(self, number: int, request: Request) -> None:
        request.deadline_s = self._loop.time() + self._limits.request_s
        self._sent[number] = request

    # Being answered

    def frame_received(
        self, kind: int, request: int, meta: memoryview | bytes, payload: memoryview
    ) -> None:
        if request == NO_REQUEST:
            self._unsolicited(kind, meta)
            return
        asked = self._sent.pop(request, None)
        if asked is self._receiving:
            self._receiving = None
        if asked is None:
            raise ProtocolError(f"{self._name} answered a request that was not made: {request}")
        self._give_back(asked)
        if asked.future.done():
            return  # nobody waits for it any more
        try:
            asked.future.set_result(self._answer(kind, asked, meta, payload))
        except SixfoldError as error:
            asked.future.set_exception(error)
            if isinstance(error, ProtocolError):
                self.fail(error)

    def _unsolicited(self, kind: int, meta: memoryview | bytes) -> None:
        if kind == FrameKind.ERROR:
            self.fail(unpack_error(meta))
        elif kind != FrameKind.OK:  # the answer to a ping
            raise ProtocolError(f"{self._name} sent {kind_name(kind)} unasked")

    def _answer(
        self, kind: int, asked: Request, meta: memoryview | bytes, payload: memoryview
    ) -> list[ShardRecord | ShardMissing] | None:
        if kind == _OK and asked.address is None:
            return None
        if kind == _RECORD and asked.address is not None:
            return [self._record(asked, unpack_header(meta), payload)]
        if kind == FrameKind.MISSING and asked.address is not None:
            return [ShardMissing(asked.address)]
        if kind == FrameKind.ERROR:
            raise unpack_error(meta)
        raise ProtocolError(f"{self._name} answered with {kind_name(kind)}")

    def _record(self, asked: Request, header: RecordHeader, payload: memoryview) -> ShardRecord:
        if header.info.address != asked.address:
            raise ProtocolError(f"{self._name} answered {asked.address} with {header.info.address}")
        if len(payload) >= LARGE_PAYLOAD_BYTES:
            return ShardRecord(header.info, payload)  # already in its own place
        if asked.into is not None and len(asked.into) == len(payload):
            asked.into[:] = payload
            return ShardRecord(header.info, asked.into)
        return ShardRecord(header.info, bytes(payload))

    def payload_place(
        self, kind: int, request: int, meta: memoryview, payload_bytes: int
    ) -> memoryview:
        asked = self._sent.get(request)
        if asked is None or kind != FrameKind.RECORD:
            raise ProtocolError(f"{self._name} sent {payload_bytes} bytes that nobody asked for")
        if asked.into is None or len(asked.into) != payload_bytes or asked.future.done():
            return memoryview(bytearray(payload_bytes))
        self._receiving = asked
        return asked.into

    def _give_back(self, request: Request) -> None:
        self._free_bytes += request.cost_bytes
        self._free_requests += 1
        if request.batch is not None:
            request.batch.unanswered -= 1
            if request.batch.unanswered == 0:
                self._unanswered_batches -= 1

    def turn_ended(self) -> None:
        self._heard_s = self._loop.time()
        if self._waiting:
            self._admit()
        if self._small:
            self._plan_flush()

    # Ending

    def get_buffer(self, sizehint: int) -> memoryview:
        self._heard_s = self._loop.time()  # also while a large payload is on its way
        # Looking here, right before the socket is read, leaves no moment in which the buffer of a
        # reader who has gone away may be in other use.
        if self._receiving is not None and self._receiving.future.done():
            self._leave_place(self._receiving)
        return super().get_buffer(sizehint)

    def _leave_place(self, request: Request) -> None:
        """Receive the rest of the payload for `request`, if it is in progress, elsewhere."""
        if self._receiving is request:
            self._receiving = None
            assert request.into is not None
            self.redirect_payload(memoryview(bytearray(len(request.into))))

    def _watch(self) -> None:
        """Every half ping interval: ping if it is quiet, give up if it stays so."""
        now_s = self._loop.time()
        if now_s - self._watched_s > self._limits.silence_s / 2:
            self._heard_s = now_s  # it was us who slept, not the node
        self._watched_s = now_s
        oldest = next(iter(self._sent.values()), None)
        if now_s - self._heard_s > self._limits.silence_s:
            self.fail(NodeTimeout(f"{self._name} has been silent for {self._limits.silence_s} s"))
        elif oldest is not None and now_s > oldest.deadline_s:
            self.fail(NodeTimeout(f"{self._name} did not answer in {self._limits.request_s} s"))
        else:
            if now_s - self._pinged_s >= self._limits.ping_s:
                self._pinged_s = now_s
                self._transport.write(pack_frame(FrameKind.PING, NO_REQUEST))
            self._timer = self._loop.call_later(self._limits.ping_s / 2, self._watch)

    def protocol_failed(self, error: ProtocolError) -> None:
        self.fail(error)

    def connection_lost(self, exc: Exception | None) -> None:
        self.fail(NodeUnreachable(f"{self._name} closed the lane" + (f": {exc}" if exc else "")))

    def fail(self, error: SixfoldError) -> None:
        """Close the lane; everyone who waits on it gets `error` now."""
        if self.closed.done():
            return
        self.closed.set_result(error)
        self._timer.cancel()
        self._transport.abort()
        orphaned = [*self._sent.values(), *(r for _, r in (*self._small, *self._waiting))]
        self._sent.clear()
        self._small.clear()
        self._waiting.clear()
        for request in orphaned:
            if not request.future.done():
                request.future.set_exception(_again(error))


def _again(error: SixfoldError) -> SixfoldError:
    """A fresh error of the same kind: one instance must not be raised in many places."""
    return type(error)(str(error))

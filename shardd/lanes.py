"""The data port: coordinators' lanes (common/wire.py).

A connection proves itself first (shardd/handshake.py); then its requests go to a write service
or a read service. This module owns the connection: when to read, when to write, when to end.
"""

import asyncio
import logging
from collections.abc import Sequence
from typing import cast

from common.auth import ClusterSecret
from common.errors import ProtocolError, SixfoldError, Unavailable
from common.framing import FrameReceiver, kind_name
from common.shards import Buffer
from common.wire import WELCOME, FrameKind, LaneKind, pack_error, pack_frame
from shardd.buffers import AlignedBuffer
from shardd.handshake import Handshake
from shardd.identity import DataDirectory
from shardd.read_lane import ReadService
from shardd.service import LaneLimits, Service
from shardd.silence import Silence
from shardd.store import VolumeStore
from shardd.write_lane import WriteService

log = logging.getLogger(__name__)

_UNSENT = "unsent answers"


class Lane(FrameReceiver):
    """One connection."""

    def __init__(self, server: "LaneServer") -> None:
        super().__init__()
        self._server, self._loop = server, asyncio.get_running_loop()
        self._handshake: Handshake | None = Handshake(server.directory.identity, server.secret)
        self._service: Service | None = None
        self._ending = False
        self._holds: set[object] = set()
        self._writing_paused = False
        self._answers: list[Buffer] = []
        self._lent: list[AlignedBuffer] = []  # being sent
        self._heard, self._sent_bytes = False, 0  # for _watch

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports are asyncio's in all but name.
        self._transport = cast(asyncio.Transport, transport)
        # With a high-water mark of 0 the transport pauses us if and only if it keeps something
        # back: not paused after a write means that the kernel has all of it.
        self._transport.set_write_buffer_limits(high=0)
        self._peer = transport.get_extra_info("peername")
        self._deadline = self._loop.call_later(
            self._server.limits.handshake_s, self.fail, ProtocolError("no handshake in time")
        )
        self._server.lanes.add(self)

    # Receiving

    def frame_received(
        self, kind: int, request: int, meta: memoryview | bytes, payload: memoryview
    ) -> None:
        if self._ending:
            return
        try:
            if self._service is not None:
                self._service.request(kind, request, meta, payload)
            else:
                self._shake_hands(kind, meta, payload)
        except SixfoldError as error:
            self.fail(error)

    def _shake_hands(self, kind: int, meta: memoryview | bytes, payload: memoryview) -> None:
        assert self._handshake is not None
        if payload:
            raise ProtocolError(f"{kind_name(kind)} with a payload before the lane is open")
        answer = self._handshake.step(kind, bytes(meta))
        if answer is not None:
            self.send([answer])
            return
        limits, lane_kind = self._server.limits, self._handshake.lane_kind
        self._deadline.cancel()
        self._watch(Silence(limits.silence_s, self._loop.time()))
        self._service = self._server.service(lane_kind, self)
        welcome = WELCOME.pack(limits.window_bytes, limits.window_requests)
        self.send([pack_frame(FrameKind.WELCOME, 0, welcome)])
        log.info("%s lane from %s", lane_kind.name.lower(), self._peer)

    def payload_place(
        self, kind: int, request: int, meta: memoryview, payload_bytes: int
    ) -> memoryview:
        if self._service is None or self._ending:
            raise ProtocolError(f"{kind_name(kind)} with a payload before the lane is open")
        try:
            return self._service.payload_place(kind, payload_bytes)
        except Unavailable as error:
            self.fail(error)
            raise ProtocolError(str(error)) from None  # nothing more can be parsed

    def buffer_updated(self, nbytes: int) -> None:
        self._heard = True  # also while a large payload is on its way
        super().buffer_updated(nbytes)

    def turn_ended(self) -> None:
        if self._service is not None and not self._ending:
            self._service.turn_ended()

    def protocol_failed(self, error: ProtocolError) -> None:
        self.fail(error)

    def hold(self, reason: object) -> None:
        """As Connection.hold."""
        if not self._holds and not self._transport.is_closing():
            self._transport.pause_reading()
        self._holds.add(reason)

    def resume(self, reason: object) -> None:
        if reason in self._holds:
            self._holds.remove(reason)
            if not self._holds and not self._transport.is_closing():
                self._transport.resume_reading()

    # Sending

    def answer(self, frame: Buffer) -> None:
        """As Connection.answer."""
        if not self._answers:
            self._loop.call_soon(self._flush)
        self._answers.append(frame)

    def _flush(self) -> None:
        answers, self._answers = self._answers, []
        self.send([b"".join(answers)])

    def send(self, pieces: Sequence[Buffer], buffers: Sequence[AlignedBuffer] = ()) -> None:
        """As Connection.send."""
        if not self._ending and not self._transport.is_closing():
            self._transport.writelines(pieces)
            self._sent_bytes += sum(map(len, pieces))
            if self.unsent_bytes > self._server.limits.unsent_bytes:
                self.hold(_UNSENT)
        self._lent += buffers
        if not self._writing_paused:
            self._give_back()

    @property
    def unsent_bytes(self) -> int:
        return self._transport.get_write_buffer_size()

    def pause_writing(self) -> None:
        self._writing_paused = True

    def resume_writing(self) -> None:
        self._writing_paused = False
        self._give_back()
        self.resume(_UNSENT)
        if self._service is not None and not self._ending:
            self._service.writable()

    def _give_back(self) -> None:
        lent, self._lent = self._lent, []
        for buffer in lent:
            buffer.release()

    # Ending

    def _watch(self, silence: Silence) -> None:
        """End the lane when its peer is gone, or stopped: it must not keep what others need."""
        heard, self._heard = self._heard, False
        unsent_bytes = self.unsent_bytes
        taken_bytes = self._sent_bytes - unsent_bytes
        why = silence.look(self._loop.time(), heard, not self._holds, taken_bytes, unsent_bytes)
        if why is not None:
            self.fail(Unavailable(f"the peer seems to be gone: {why}"))
        else:
            self._deadline = self._loop.call_later(silence.interval_s, self._watch, silence)

    def fail(self, error: SixfoldError) -> None:
        """As Connection.fail."""
        if self._ending:
            return
        log.warning("closing a lane from %s: %s", self._peer, error)
        self.send([pack_frame(FrameKind.ERROR, 0, pack_error(error))])
        self.close()

    def close(self) -> None:
        self._ending = True
        self._deadline.cancel()
        self._transport.close()
        if self._writing_paused:  # a peer that does not read must not keep us
            self._transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        self._ending = True
        self._deadline.cancel()
        self._writing_paused = False
        self._give_back()
        if self._service is not None:
            self._service.closed()
        self._server.gone(self)


class LaneServer:
    """Listens on the data port. `close` ends every lane."""

    def __init__(
        self,
        store: VolumeStore,
        directory: DataDirectory,
        secret: ClusterSecret,
        limits: LaneLimits | None = None,
    ) -> None:
        self.directory, self.secret = directory, secret
        self.limits = limits or LaneLimits()
        self.lanes: set[Lane] = set()
        self._store = store
        self._server: asyncio.Server | None = None
        self._empty = asyncio.Event()

    async def start(self, host: str, port: int) -> int:
        """The port that it listens on."""
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(lambda: Lane(self), host, port)
        bound: int = self._server.sockets[0].getsockname()[1]
        return bound

    def service(self, kind: LaneKind, lane: Lane) -> Service:
        if kind is LaneKind.WRITE:
            return WriteService(lane, self._store, self.limits)
        return ReadService(lane, self._store, self.limits)

    def gone(self, lane: Lane) -> None:
        self.lanes.discard(lane)
        if not self.lanes:
            self._empty.set()

    async def close(self) -> None:
        """Stop listening, close the lanes, wait until they are gone."""
        if self._server is None:
            return
        self._server.close()
        self._empty.clear()
        for lane in list(self.lanes):
            lane.close()
        if self.lanes:
            await self._empty.wait()
        await self._server.wait_closed()

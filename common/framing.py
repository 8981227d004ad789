"""Receives frames on either end of a lane, without a copy for large payloads.

Small frames arrive many at a time in one buffer; a large payload is received by the socket
straight into the memory that the subclass names for it (DESIGN: `asyncio.BufferedProtocol`).
"""

import asyncio
from abc import ABC, abstractmethod

from common.errors import ProtocolError
from common.units import KIB
from common.wire import FRAME, FRAME_HEADER_BYTES, FrameKind, check_frame

RECEIVE_BUFFER_BYTES = 256 * KIB
LARGE_PAYLOAD_BYTES = 64 * KIB  # from here on a payload is received in place


class FrameReceiver(asyncio.BufferedProtocol, ABC):
    """Parses frames and calls `frame_received` for each and `turn_ended` once per arrival.

    A subclass that raises ProtocolError from these sees `protocol_failed`.
    """

    def __init__(self) -> None:
        self._buffer = memoryview(bytearray(RECEIVE_BUFFER_BYTES))
        self._start = self._end = 0  # what is received and not yet parsed
        self._failed = False
        self._large: memoryview | None = None  # the payload being received in place
        self._large_received = 0
        self._large_frame: tuple[int, int, bytes] = (0, 0, b"")

    @abstractmethod
    def frame_received(
        self, kind: int, request: int, meta: memoryview | bytes, payload: memoryview
    ) -> None:
        """One whole frame. Unless it came from `payload_place`, the payload, like the meta, is
        only valid during the call."""

    def payload_place(
        self, kind: int, request: int, meta: memoryview, payload_bytes: int
    ) -> memoryview:
        """Exactly `payload_bytes` of memory to receive a large payload into."""
        return memoryview(bytearray(payload_bytes))

    def turn_ended(self) -> None:
        """Everything that one arrival brought has been handed over."""

    @abstractmethod
    def protocol_failed(self, error: ProtocolError) -> None:
        """The peer sent what cannot be parsed: the connection is of no more use."""

    def redirect_payload(self, place: memoryview) -> None:
        """Let the rest of the payload in progress, if any, go to `place` (of the same size)."""
        if self._large is not None:
            self._large = place

    def get_buffer(self, sizehint: int) -> memoryview:
        if self._large is not None:
            return self._large[self._large_received :]
        return self._buffer[self._end :]

    def buffer_updated(self, nbytes: int) -> None:
        if self._failed:
            return  # the transport may hand over more before it is gone
        try:
            if self._large is not None:
                self._large_received += nbytes
                if self._large_received == len(self._large):
                    self._finish_large()
                    self.turn_ended()
                return
            self._end += nbytes
            self._parse()
            self._make_room()
            self.turn_ended()
        except ProtocolError as error:
            self._failed, self._start, self._end, self._large = True, 0, 0, None
            self.protocol_failed(error)

    def _parse(self) -> None:
        """Hand over every frame that is whole. One loop: at thousands of frames a second, calls
        count."""
        buffer, end = self._buffer, self._end
        while end - (start := self._start) >= FRAME_HEADER_BYTES and self._large is None:
            payload_bytes, request, meta_bytes, kind = FRAME.unpack_from(buffer, start)
            check_frame(payload_bytes, meta_bytes)
            body = start + FRAME_HEADER_BYTES + meta_bytes
            if end < body:
                return
            meta = buffer[start + FRAME_HEADER_BYTES : body]
            if payload_bytes >= LARGE_PAYLOAD_BYTES:
                self._start_large(kind, request, meta, payload_bytes, body)
                continue
            after = body + payload_bytes
            if end < after:
                return
            self._start = after
            self.frame_received(kind, request, meta, buffer[body:after])

    def _start_large(
        self, kind: int, request: int, meta: memoryview, payload_bytes: int, body: int
    ) -> None:
        place = self.payload_place(kind, request, meta, payload_bytes)
        here = min(self._end - body, payload_bytes)
        place[:here] = self._buffer[body : body + here]
        self._start = body + here
        self._large, self._large_received = place, here
        self._large_frame = (kind, request, bytes(meta))
        if here == payload_bytes:
            self._finish_large()

    def _finish_large(self) -> None:
        payload, (kind, request, meta) = self._large, self._large_frame
        assert payload is not None
        self._large = None
        self.frame_received(kind, request, meta, payload)

    def _make_room(self) -> None:
        """Move an unfinished frame to the front, so that the largest small frame fits."""
        if self._start == self._end:
            self._start = self._end = 0
        elif self._start:
            rest = self._end - self._start
            self._buffer[:rest] = bytes(self._buffer[self._start : self._end])
            self._start, self._end = 0, rest


def kind_name(kind: int) -> str:
    """For messages: the name of a frame kind, or its number if there is none."""
    return FrameKind(kind).name if kind in FrameKind._value2member_map_ else str(kind)

"""Frames to cut into arrivals, and a receiver that records them, driven as an event loop does."""

import random
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import repeat

from common.errors import ProtocolError
from common.framing import (
    LARGE_PAYLOAD_BYTES,
    FrameReceiver,
)
from common.units import MIB
from common.wire import FrameKind, pack_frame

SMALL = LARGE_PAYLOAD_BYTES - 1  # the largest payload that goes through the receive buffer
LARGE = LARGE_PAYLOAD_BYTES
NOISE = random.Random(0).randbytes(1 * MIB)


@dataclass(frozen=True)
class Frame:
    kind: int
    request: int
    meta: bytes
    payload: bytes

    def pack(self) -> bytes:
        head = pack_frame(FrameKind(self.kind), self.request, self.meta, len(self.payload))
        return head + self.payload


def make_frame(request: int, meta_bytes: int = 0, payload_bytes: int = 0) -> Frame:
    """Its bytes differ from those of its neighbours."""
    meta = NOISE[request : request + meta_bytes]
    payload = (NOISE[2 * request :] * (payload_bytes // MIB + 1))[:payload_bytes]
    return Frame([*FrameKind][request % len(FrameKind)], request, meta, payload)


def make_frames(*sizes: tuple[int, int]) -> list[Frame]:
    return [make_frame(number, *size) for number, size in enumerate(sizes)]


def pack_all(frames: Iterable[Frame]) -> bytes:
    return b"".join(frame.pack() for frame in frames)


class Recorder(FrameReceiver):
    """Keeps copies of what it is given, and every payload's own memory."""

    def __init__(self) -> None:
        super().__init__()
        self.frames: list[Frame] = []
        self.places: list[memoryview] = []
        self.payloads: list[memoryview] = []
        self.turns: list[int] = []  # how many frames there were at each end of a turn
        self.failures: list[str] = []
        self.refuses = ""

    def _refuse(self, where: str) -> None:
        if self.refuses == where:
            raise ProtocolError(where)

    def frame_received(
        self, kind: int, request: int, meta: memoryview | bytes, payload: memoryview
    ) -> None:
        self._refuse("frame_received")
        self.frames.append(Frame(kind, request, bytes(meta), bytes(payload)))
        self.payloads.append(payload)

    def payload_place(
        self, kind: int, request: int, meta: memoryview, payload_bytes: int
    ) -> memoryview:
        self._refuse("payload_place")
        self.places.append(super().payload_place(kind, request, meta, payload_bytes))
        return self.places[-1]

    def turn_ended(self) -> None:
        self._refuse("turn_ended")
        self.turns.append(len(self.frames))

    def protocol_failed(self, error: ProtocolError) -> None:
        self.failures.append(str(error))


def feed(receiver: FrameReceiver, stream: bytes, arrivals: Iterable[int]) -> None:
    """As an event loop: ask for a buffer, fill what has arrived into it, say how much."""
    rest = memoryview(stream)
    for arrived in arrivals:
        here, rest = rest[:arrived], rest[arrived:]
        while here:
            buffer = receiver.get_buffer(-1)
            assert len(buffer) > 0, "an empty buffer is a fatal error in every event loop"
            size = min(len(buffer), len(here))
            buffer[:size] = here[:size]
            receiver.buffer_updated(size)
            here = here[size:]
        if not rest:
            return
    raise AssertionError(f"{len(rest)} bytes have not arrived")


def whole() -> Iterator[int]:
    """Arrivals that always fill the buffer."""
    return repeat(1 << 30)


def parse(stream: bytes, arrivals: Iterable[int]) -> Recorder:
    receiver = Recorder()
    feed(receiver, stream, arrivals)
    return receiver


def cuts(stream: bytes, positions: Sequence[int]) -> list[int]:
    """The arrivals when `stream` is cut at the positions, ascending."""
    return [b - a for a, b in zip([0, *positions], [*positions, len(stream)], strict=True)]

"""Between a lane's connection (lanes.py) and what is done with its requests (write_lane.py,
read_lane.py): the two interfaces, and the limits that both keep."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from common.errors import ProtocolError, SixfoldError
from common.shards import Buffer
from common.units import MIB
from shardd.buffers import AlignedBuffer


@dataclass(frozen=True, slots=True)
class LaneLimits:
    """The window is what one lane may have unanswered. Beyond `unsent_bytes` of answers that the
    peer leaves unread, nothing more is done for it. A lane is ended from which nothing comes for
    `silence_s`, although coordinators ping every second, or whose answers nobody takes so long."""

    window_bytes: int = 16 * MIB
    window_requests: int = 1024
    unsent_bytes: int = 4 * MIB
    handshake_s: float = 5.0
    silence_s: float = 15.0


class Connection(Protocol):
    """What a service may do with its lane."""

    def hold(self, reason: object) -> None:
        """Stop reading from the socket until everyone who held has resumed."""

    def resume(self, reason: object) -> None: ...

    def answer(self, frame: Buffer) -> None:
        """Send it together with all other answers of this turn of the event loop."""

    def send(self, pieces: Sequence[Buffer], buffers: Sequence[AlignedBuffer] = ()) -> None:
        """Send now; `buffers`, which the pieces point into, go back when they have left."""

    @property
    def unsent_bytes(self) -> int: ...

    def fail(self, error: SixfoldError) -> None:
        """Tell the peer why, and close."""


class Service(Protocol):
    """What a lane of one kind does with its requests. ProtocolError ends the lane."""

    def payload_place(self, kind: int, payload_bytes: int) -> memoryview: ...

    def request(
        self, kind: int, request: int, meta: memoryview | bytes, payload: memoryview
    ) -> None: ...

    def turn_ended(self) -> None: ...

    def writable(self) -> None:
        """What was sent has left: there is room for more."""

    def closed(self) -> None:
        """The lane is gone; what it asked for is wanted no more."""


class Window:
    """Counts a lane's unanswered requests, and the bytes of their payloads."""

    __slots__ = ("_bytes", "_limits", "_requests")

    def __init__(self, limits: LaneLimits) -> None:
        self._limits = limits
        self._bytes = self._requests = 0

    def enter(self, payload_bytes: int = 0) -> None:
        """Raises ProtocolError if the peer was not entitled to this request yet."""
        self._bytes += payload_bytes
        self._requests += 1
        limits = self._limits
        if self._bytes > limits.window_bytes or self._requests > limits.window_requests:
            raise ProtocolError(
                f"window exceeded: {self._requests} requests with {self._bytes} bytes unanswered"
            )

    def leave(self, payload_bytes: int = 0) -> None:
        self._bytes -= payload_bytes
        self._requests -= 1

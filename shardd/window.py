"""What one lane has unanswered, and the refusal to let it be more than was agreed."""

from common.errors import ProtocolError


class Window:
    """Counts requests, and the bytes of their payloads."""

    __slots__ = ("_bytes", "_limit_bytes", "_limit_requests", "_requests")

    def __init__(self, limit_bytes: int, limit_requests: int) -> None:
        self._limit_bytes, self._limit_requests = limit_bytes, limit_requests
        self._bytes = self._requests = 0

    def enter(self, payload_bytes: int = 0) -> None:
        """Raises ProtocolError if the peer was not entitled to this request yet."""
        self._bytes += payload_bytes
        self._requests += 1
        if self._bytes > self._limit_bytes or self._requests > self._limit_requests:
            raise ProtocolError(
                f"window exceeded: {self._requests} requests with {self._bytes} bytes unanswered"
            )

    def leave(self, payload_bytes: int = 0) -> None:
        self._bytes -= payload_bytes
        self._requests -= 1

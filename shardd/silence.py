"""When a lane's peer is given up. A coordinator that was stopped, or whose host is gone without a
word, keeps its connection for ever, and with it the buffers that its requests are in: a few of them
would take all that there is."""


class Silence:
    """Looked at every `interval_s`. It is the peer's silence only while the node listens: a lane
    that waits for a buffer is not read from, however much has come. And after a look that comes
    much too late it may be the node that slept, with all that came meanwhile still unread."""

    def __init__(self, limit_s: float, now_s: float) -> None:
        self._limit_s = limit_s
        self._heard_s = self._took_s = self._looked_s = now_s
        self._taken_bytes = 0

    @property
    def interval_s(self) -> float:
        return self._limit_s / 8

    def look(
        self, now_s: float, heard: bool, listening: bool, taken_bytes: int, unsent_bytes: int
    ) -> str | None:
        """Why the peer is to be given up, if so. `heard`: something came since the last look.
        `taken_bytes` are what it has taken of its answers so far."""
        slept = now_s - self._looked_s > self._limit_s / 2
        self._looked_s = now_s
        if heard or slept or not listening:
            self._heard_s = now_s
        if taken_bytes != self._taken_bytes or slept or not unsent_bytes:
            self._taken_bytes, self._took_s = taken_bytes, now_s
        if now_s - self._heard_s > self._limit_s:
            return f"nothing came for {self._limit_s:g} s"
        if now_s - self._took_s > self._limit_s:
            return f"{unsent_bytes} bytes of answers were not taken for {self._limit_s:g} s"
        return None

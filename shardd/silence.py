"""Whether the peer of a lane is still there, as far as a node can tell.

Coordinators ping every second. One that neither sends anything nor takes any of its answers has
gone without a word, with its machine or its network, or is stopped: what it has of the buffers that
all lanes share must come back.
"""


class Silence:
    """Looked at several times while it may last."""

    def __init__(self, longest_s: float, now_s: float) -> None:
        self.look_every_s = longest_s / 4
        self._longest_s = longest_s
        self._since_s = self._looked_s = now_s
        self._moved_bytes = 0

    def is_over_long(self, now_s: float, moved_bytes: int, is_ours: bool) -> bool:
        """`moved_bytes` is all that the peer has sent and taken so far; `is_ours` if it is we who
        do not read, so that nothing can be said of it."""
        slept = now_s - self._looked_s > 2 * self.look_every_s  # us, not the peer
        if slept or is_ours or moved_bytes != self._moved_bytes:
            self._since_s = now_s
        self._looked_s, self._moved_bytes = now_s, moved_bytes
        return now_s - self._since_s >= self._longest_s

"""How long reads take, and how many extra ones a hedge may cost."""

import time
from collections import Counter, deque
from collections.abc import Callable, Sequence

WINDOW = 256
RECOMPUTE_EVERY = 32
HEDGE_SHARE = 0.05  # extra requests, of all
MAX_HEDGES_SAVED = 30.0
MISSES = 3  # in a row: a good node misses one in a hundred
AVOIDED_S = 5.0
PROBE_S = 0.5


class HedgePolicy:
    """A read slower than the 99th percentile of recent ones is worth asking elsewhere for, as
    long as that stays under 5 % of all requests (J. Dean, L. Barroso, "The Tail at Scale", 2013,
    who take the 95th: then healthy nodes use up what is allowed, and when one really is slow
    nothing is left for it).
    """

    def __init__(self, first_delay_s: float, least_s: float, most_s: float) -> None:
        self._recent: deque[float] = deque(maxlen=WINDOW)
        self._least_s, self._most_s = least_s, most_s
        self.delay_s = first_delay_s
        self._since = 0
        self._saved = MAX_HEDGES_SAVED
        self.slow_nodes = SlowNodes()

    def asked(self, requests: int) -> None:
        """So many ordinary requests were made."""
        self._saved = min(MAX_HEDGES_SAVED, self._saved + HEDGE_SHARE * requests)

    def answered(self, took_s: float) -> None:
        """An ordinary request was answered in good time."""
        self._recent.append(took_s)
        self._since += 1
        if self._since >= RECOMPUTE_EVERY:
            self._since = 0
            late_s = percentile(sorted(self._recent), 0.99)
            self.delay_s = max(self._least_s, min(self._most_s, late_s))

    def take(self, requests: int) -> int:
        """How many of so many extra requests may be made now."""
        granted = min(requests, int(self._saved))
        self._saved -= granted
        return granted


class SlowNodes:
    """Nodes that were too slow several times in a row. To hedge each read from one would cost more
    than 5 %, so for a while they are asked last; then one read asks again, and one more miss is
    enough."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._misses: Counter[int] = Counter()
        self._avoided_until_s: dict[int, float] = {}

    def missed(self, node: int) -> None:
        """It did not answer before the hedge."""
        self._misses[node] += 1
        if self._misses[node] >= MISSES:
            self._avoided_until_s[node] = self._clock() + AVOIDED_S

    def in_time(self, node: int) -> None:
        """It did."""
        if node in self._misses:
            del self._misses[node]
            self._avoided_until_s.pop(node, None)

    def misses(self, node: int) -> int:
        """How many in a row."""
        return self._misses[node]

    def __contains__(self, node: int) -> bool:
        return node in self._avoided_until_s

    def probe(self, node: int) -> bool:
        """Whether whoever calls this is to ask it again: one read at a time, since each may have
        to wait for the hedge."""
        now_s = self._clock()
        if self._avoided_until_s[node] > now_s:
            return False
        self._avoided_until_s[node] = now_s + PROBE_S
        return True


def percentile(ascending: Sequence[float], fraction: float) -> float:
    """The nearest-rank percentile. `ascending` is not empty."""
    return ascending[min(len(ascending) - 1, int(fraction * len(ascending)))]

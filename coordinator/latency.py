"""How long reads take, and how many extra ones a hedge may cost."""

from collections import deque
from collections.abc import Sequence

WINDOW = 256
RECOMPUTE_EVERY = 32
HEDGE_SHARE = 0.05  # extra requests, of all
MAX_HEDGES_SAVED = 30.0


class HedgePolicy:
    """A read slower than the 95th percentile of recent ones is worth asking elsewhere for, as
    long as that stays under 5 % of all requests (J. Dean, L. Barroso, "The Tail at Scale", 2013).
    """

    def __init__(self, first_delay_s: float, least_s: float, most_s: float) -> None:
        self._recent: deque[float] = deque(maxlen=WINDOW)
        self._least_s, self._most_s = least_s, most_s
        self.delay_s = first_delay_s
        self._since = 0
        self._saved = MAX_HEDGES_SAVED

    def asked(self, requests: int) -> None:
        """So many ordinary requests were made."""
        self._saved = min(MAX_HEDGES_SAVED, self._saved + HEDGE_SHARE * requests)

    def answered(self, took_s: float) -> None:
        """An ordinary request was answered in good time."""
        self._recent.append(took_s)
        self._since += 1
        if self._since >= RECOMPUTE_EVERY:
            self._since = 0
            p95_s = percentile(sorted(self._recent), 0.95)
            self.delay_s = max(self._least_s, min(self._most_s, p95_s))

    def take(self, requests: int) -> int:
        """How many of so many extra requests may be made now."""
        granted = min(requests, int(self._saved))
        self._saved -= granted
        return granted


def percentile(ascending: Sequence[float], fraction: float) -> float:
    """The nearest-rank percentile. `ascending` is not empty."""
    return ascending[min(len(ascending) - 1, int(fraction * len(ascending)))]

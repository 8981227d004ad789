"""Since when this process has been watching: what it did not see, it cannot call silence."""

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(slots=True)
class Attention:
    """It looks about once a second. After `blind_after_s` without a look, because it was stopped or
    had no database, it cannot tell any more which nodes have been silent, and begins anew."""

    clock: Callable[[], float]
    blind_after_s: float
    _began_s: float = 0.0
    _looked_at_s: float = float("-inf")

    def look(self) -> None:
        if self.is_blind():
            self._began_s = self.clock()
        self._looked_at_s = self.clock()

    def is_blind(self) -> bool:
        return self.clock() - self._looked_at_s > self.blind_after_s

    def since(self, at_s: float) -> float:
        """Seconds; what this process could not follow does not count."""
        return self.clock() - max(at_s, self._began_s)

"""Runs of one failpoint, until it has come often enough."""

from collections.abc import Iterator

TRIES = 20  # for each end: every point comes in a third of the runs or so


class Ends:
    """How often the processes of a test ended at `point`, of `wanted` times."""

    def __init__(self, point: str, wanted: int) -> None:
        self.came = 0
        self._point, self._wanted, self._runs = point, wanted, 0

    def runs(self) -> Iterator[int]:
        """Their numbers: as many as it takes. Of a point that hardly ever comes, not for ever."""
        while self.came < self._wanted and self._runs < TRIES * self._wanted:
            yield self._runs
            self._runs += 1

    def missing(self) -> list[str]:
        """What to say if the point has not come so often."""
        if self.came >= self._wanted:
            return []
        return [f"{self._point}: came {self.came} times, not {self._wanted}, in {self._runs} runs"]

"""The test bed: sixfold and its floor side by side, measured in turn, round by round.

Machines are shared and noisy, so a figure means little and a ratio more: each round measures both
within seconds, and the fraction is the median of the rounds' own ratios.
"""

import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from itertools import count
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

from bench.cluster import Servers, floor_server, local_cluster
from bench.rows import Row

# What one round finds on one side: figures by name.
Sample = dict[str, float]


@dataclass(frozen=True, slots=True)
class Bed:
    """Both sides, fresh and empty, and seeds for contents that nobody has stored yet."""

    sixfold: Servers
    floor: Servers
    directory: Path
    _seeds: Iterator[int] = field(default_factory=lambda: count(1 << 32, 1 << 32))

    def new_seed(self) -> int:
        """The first of 2³² seeds of which none was given out before."""
        return next(self._seeds)

    def floor_mode(self, name: str, value: int) -> None:
        """As `bench.floor` understands it."""
        request = urllib.request.Request(f"{self.floor.url}/mode/{name}/{value}", method="POST")
        urllib.request.urlopen(request).close()

    def without(self, nodes: Sequence[str]) -> "Bed":
        """Once these have been killed."""
        return replace(self, sixfold=self.sixfold.without(nodes))


@contextmanager
def fresh_bed(parent: Path | None, arguments: Sequence[str] = ()) -> Iterator[Bed]:
    """`arguments` are for `sixfold up`. Everything is deleted afterwards."""
    with (
        TemporaryDirectory(prefix="sixfold-bench-", dir=parent) as temporary,
        local_cluster(Path(temporary) / "cluster", arguments=arguments) as sixfold,
        floor_server(Path(temporary) / "floor") as floor,
    ):
        yield Bed(sixfold, floor, Path(temporary) / "cluster")


def compare(
    rounds: int, units: dict[str, str], measure: Callable[[Servers], Sample], bed: Bed
) -> list[Row]:
    """A row for each of `units`, from so many rounds; `measure` gives a sample of one side."""
    pairs = [_in_turn(bed, measure, number) for number in range(rounds)]
    return [_row(name, unit, pairs) for name, unit in units.items()]


def _in_turn(bed: Bed, measure: Callable[[Servers], Sample], number: int) -> tuple[Sample, Sample]:
    """A round: the floor's sample and sixfold's. In every other one sixfold comes first, as what
    is measured later finds another machine."""
    if number % 2:
        sixfold = measure(bed.sixfold)
        return measure(bed.floor), sixfold
    return measure(bed.floor), measure(bed.sixfold)


def _row(name: str, unit: str, pairs: Sequence[tuple[Sample, Sample]]) -> Row:
    values = [sixfold[name] for _, sixfold in pairs]
    if name not in pairs[0][0]:  # the floor has nothing like it
        return Row.of(name, unit, values)
    fraction = median(sixfold[name] / floor[name] for floor, sixfold in pairs)
    floor_value = median(floor[name] for floor, _ in pairs)
    return Row(name, median(values), unit, floor_value, fraction, min(values), max(values))

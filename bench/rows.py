"""What every benchmark reports: figures, printed as a table and written as JSON.

A figure is the median of a few rounds, with the least and the greatest of them. Where the machine
itself sets a bound, `floor` is what it does without us (a bare copy, a bare fdatasync), in the
same unit, and `fraction` the value divided by it (in `make bench` the median of what each round
gives): below 1 for rates, above 1 for times.
"""

import json
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median

from rich.console import Console
from rich.table import Table

ROUNDS = 5
_WIDEST = 1000


@dataclass(frozen=True, slots=True)
class Row:
    """One line of a table. All figures but `fraction` are in `unit`."""

    name: str
    value: float
    unit: str
    floor: float | None
    fraction: float | None
    min: float
    max: float

    @classmethod
    def of(
        cls, name: str, unit: str, figures: Sequence[float], floor: float | None = None
    ) -> "Row":
        """The median of `figures`, one per round, which are positive and finite."""
        if not figures or not all(math.isfinite(figure) and figure > 0 for figure in figures):
            raise ValueError(f"{name}: not figures of a measurement: {list(figures)}")
        value = median(figures)
        fraction = None if floor is None else value / floor
        return cls(name, value, unit, floor, fraction, min(figures), max(figures))


def measure(
    name: str,
    unit: str,
    one_round: Callable[[], float],
    floor_round: Callable[[], float] | None = None,
    rounds: int = ROUNDS,
) -> Row:
    """Call `one_round` that often, each time for one figure in `unit`; in turn with the floor's,
    so that both see the same of whatever else the machine does."""
    figures, floors = [], []
    for _ in range(rounds):
        if floor_round is not None:
            floors.append(floor_round())
        figures.append(one_round())
    return Row.of(name, unit, figures, median(floors) if floors else None)


def print_table(rows: Iterable[Row], console: Console | None = None) -> None:
    """To standard output, unless `console` says otherwise, which is widened to a line per row."""
    table = Table("name", box=None, padding=(0, 2, 0, 0))
    for heading in ("median", "unit", "min", "max", "floor", "× floor"):
        table.add_column(heading, justify="left" if heading == "unit" else "right")
    for row in rows:
        floor = "" if row.floor is None else _shown(row.floor)
        fraction = "" if row.fraction is None else f"{row.fraction:.2f}"
        table.add_row(
            row.name, _shown(row.value), row.unit, _shown(row.min), _shown(row.max), floor, fraction
        )
    console = console or Console()
    wide = console.options.update(width=_WIDEST)
    console.width = max(console.width, console.measure(table, options=wide).maximum)
    console.print(table)


def _shown(figure: float) -> str:
    """Three significant digits."""
    if figure >= 1000:
        return f"{round(figure, 2 - math.floor(math.log10(figure))):,.0f}"
    return f"{figure:#.3g}".rstrip(".")


def write_rows(path: Path, rows: Iterable[Row]) -> None:
    """A JSON list of objects whose keys are the fields of Row."""
    path.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps([asdict(row) for row in rows], ensure_ascii=False, indent=1)
    path.write_text(text + "\n", encoding="utf-8")


def read_rows(path: Path) -> list[Row]:
    """What `write_rows` wrote."""
    return [Row(**fields) for fields in json.loads(path.read_text(encoding="utf-8"))]

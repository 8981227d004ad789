"""Figures: what a benchmark has found, as a table to read and as JSON to compare."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median


@dataclass(frozen=True, slots=True)
class Figure:
    """`floor` is what the value is held against, `fraction` the value divided by it."""

    name: str
    value: float
    unit: str
    floor: float | None = None
    fraction: float | None = None
    min: float | None = None
    max: float | None = None


def figure_of(name: str, unit: str, samples: Sequence[float], floor: float | None = None) -> Figure:
    """The median of some runs, and how far they lie apart."""
    value = median(samples)
    fraction = value / floor if floor else None
    return Figure(name, value, unit, floor, fraction, min(samples), max(samples))


def write_figures(figures: Iterable[Figure], path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps([asdict(figure) for figure in figures], indent=1) + "\n")


def table_of(figures: Iterable[Figure]) -> str:
    """One line per figure, in columns."""
    header = ("", "value", "unit", "floor", "fraction", "min", "max")
    rows = [header] + [_cells(figure) for figure in figures]
    widths = [max(len(row[column]) for row in rows) for column in range(len(header))]
    return "\n".join(
        f"{row[0]:<{widths[0]}}"
        + "".join(f"  {cell:>{width}}" for cell, width in zip(row[1:], widths[1:], strict=True))
        for row in rows
    )


def _cells(figure: Figure) -> tuple[str, ...]:
    value, floor, low, high = map(_shown, (figure.value, figure.floor, figure.min, figure.max))
    return figure.name, value, figure.unit, floor, _shown(figure.fraction), low, high


def _shown(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"

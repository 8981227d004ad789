"""The figures that benchmarks report."""

import io
import json
import math
from pathlib import Path

import pytest
from rich.console import Console

from bench.rows import Row, measure, print_table, read_rows, write_rows

RATE = Row.of("copy", "GB/s", [4.0, 5.0, 3.0], floor=8.0)
TIME = Row.of("sync", "µs", [200.0, 100.0, 1234.5], floor=50.0)
PLAIN = Row.of("walk", "ops/s", [1_234_567.0])


def test_a_row_is_the_median_with_the_extremes() -> None:
    assert (RATE.value, RATE.min, RATE.max) == (4.0, 3.0, 5.0)
    assert Row("walk", 1_234_567.0, "ops/s", None, None, 1_234_567.0, 1_234_567.0) == PLAIN


def test_the_fraction_is_of_the_floor() -> None:
    assert RATE.fraction == 0.5
    assert TIME.fraction == 4.0


@pytest.mark.parametrize("figures", [[], [0.0], [1.0, -1.0], [math.nan], [math.inf, 1.0]])
def test_what_is_no_measurement_makes_no_row(figures: list[float]) -> None:
    with pytest.raises(ValueError, match="not figures"):
        Row.of("broken", "s", figures)


def test_measuring_calls_once_per_round() -> None:
    figures = iter([5.0, 1.0, 2.0, 9.0, 3.0])
    row = measure("five", "ms", lambda: next(figures))
    assert (row.value, row.min, row.max) == (3.0, 1.0, 9.0)
    assert list(figures) == []
    assert measure("one", "ms", lambda: 7.0, floor=7.0, rounds=1).fraction == 1.0


def test_rows_come_back_from_their_file(tmp_path: Path) -> None:
    path = tmp_path / "results" / "rows.json"
    write_rows(path, [RATE, TIME, PLAIN])
    assert read_rows(path) == [RATE, TIME, PLAIN]
    keys = ["name", "value", "unit", "floor", "fraction", "min", "max"]
    assert [list(row) for row in json.loads(path.read_text())] == [keys] * 3


def test_the_table_shows_three_digits_and_the_fraction() -> None:
    console = Console(file=io.StringIO(), width=100)
    print_table([RATE, TIME, PLAIN], console)
    assert isinstance(console.file, io.StringIO)
    shown = [line.strip("│ ") for line in console.file.getvalue().splitlines()]
    cells = [[cell.strip() for cell in line.split("│")] for line in shown]
    assert ["copy", "4.00", "GB/s", "3.00", "5.00", "8.00", "0.50"] in cells
    assert ["sync", "200", "µs", "100", "1,230", "50.0", "4.00"] in cells
    assert any(
        line[:5] == ["walk", "1,230,000", "ops/s", "1,230,000", "1,230,000"] for line in cells
    )

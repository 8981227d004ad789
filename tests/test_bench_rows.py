"""The figures that benchmarks report."""

import io
import json
import math
from collections.abc import Iterator, Sequence
from functools import partial
from itertools import count
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest
from rich.console import Console

from bench import large, large_rows
from bench.bed import Bed
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


def test_measuring_takes_turns_with_the_floor() -> None:
    figures, floors, turns = iter([5.0, 1.0, 2.0, 9.0, 3.0]), iter([4.0, 6.0, 7.0, 8.0, 1.0]), []

    def turn(of: Iterator[float]) -> float:
        turns.append(of)
        return next(of)

    row = measure("five", "ms", lambda: turn(figures), lambda: turn(floors))
    assert row == Row("five", 3.0, "ms", 6.0, 0.5, 1.0, 9.0)
    assert turns == [floors, figures] * 5
    assert measure("one", "ms", lambda: 7.0, rounds=1) == Row.of("one", "ms", [7.0])


def test_rows_come_back_from_their_file(tmp_path: Path) -> None:
    path = tmp_path / "results" / "rows.json"
    write_rows(path, [RATE, TIME, PLAIN])
    assert read_rows(path) == [RATE, TIME, PLAIN]
    keys = ["name", "value", "unit", "floor", "fraction", "min", "max"]
    assert [list(row) for row in json.loads(path.read_text())] == [keys] * 3


def test_the_table_has_a_line_per_row_with_three_digits() -> None:
    written = io.StringIO()
    print_table([RATE, TIME, PLAIN], Console(file=written, width=40))
    lines = [line.split() for line in written.getvalue().splitlines()]
    assert lines == [
        ["name", "median", "unit", "min", "max", "floor", "×", "floor"],
        ["copy", "4.00", "GB/s", "3.00", "5.00", "8.00", "0.50"],
        ["sync", "200", "µs", "100", "1,230", "50.0", "4.00"],
        ["walk", "1,230,000", "ops/s", "1,230,000", "1,230,000"],
    ]


def test_nobody_stores_the_same_content_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    """That would be dedup, which is another row; and each round both store the same."""
    stored: list[tuple[str, int]] = []
    monkeypatch.setattr(large, "put", lambda url, id_, seed, size: None)
    monkeypatch.setattr(large, "get", lambda url, id_, seed, size: None)

    def note(transfers: Sequence[partial[None]]) -> float:
        stored.extend((each.args[0], each.args[2]) for each in transfers if each.func is put)
        return 1.0

    put = large.put
    monkeypatch.setattr(large, "at_once", note)
    seeds, ticks = count(), count()

    def clock() -> dict[str, float]:
        return {"process": next(ticks)}

    sides = [
        SimpleNamespace(url=name, pids=(), cpu_s_by_process=clock) for name in ("floor", "sixfold")
    ]
    bed = SimpleNamespace(
        floor=sides[0], sixfold=sides[1], floor_mode=lambda name, value: None,
        new_seed=lambda: next(seeds),
    )  # fmt: skip
    list(large_rows._put_and_get(cast(Bed, bed), 5, 1, 2))
    assert len(set(stored)) == len(stored) == 5 * 2 * 2
    assert {seed for url, seed in stored if url == "floor"} == {
        seed for url, seed in stored if url == "sixfold"
    }

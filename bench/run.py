"""`make bench`: how fast sixfold is beside a floor, in one run on one machine.

The floor (bench/floor.py) does only the unavoidable work of each row with the same libraries. What
is printed is the median of several rounds, the floor's, sixfold's fraction of it, and the least
and most; then how the fractions stand to the targets.
"""

import argparse
import os
import platform
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.large_rows import large_rows
from bench.rows import Row, print_table, write_rows
from bench.small_rows import small_rows

RESULTS = Path(__file__).with_name("results") / "latest.json"


@dataclass(frozen=True, slots=True)
class Target:
    """For rows that begin with `row`: the least fraction of the floor, or the most, or the most of
    the figure itself."""

    row: str
    bound: float
    most: bool = False
    of_floor: bool = True

    def verdict(self, row: Row) -> str:
        found = row.fraction if self.of_floor else row.value
        assert found is not None
        met = found <= self.bound if self.most else found >= self.bound
        sign = "<=" if self.most else ">="
        unit = "x floor" if self.of_floor else row.unit
        return f"{'met ' if met else 'MISS'}  {found:8.2f} {sign} {self.bound:g} {unit}: {row.name}"


TARGETS = (
    Target("PUT 100 MiB", 0.6),
    Target("PUT 800 MiB", 0.6),
    Target("GET 100 MiB", 0.7),
    Target("GET 800 MiB", 0.7),
    Target("degraded GET", 0.6),
    Target("PUT 4 KiB, 64", 0.4),
    Target("GET 4 KiB, 64", 0.55),
    Target("cached GET 4 KiB, 64", 0.7),
    Target("p50, PUT 4 KiB, 1 client", 2.0, most=True),
    Target("p50, GET 4 KiB, 1 client", 2.0, most=True),
    Target("CPU, PUT 800 MiB", 3.5, most=True, of_floor=False),
    Target("CPU, GET 800 MiB", 1.8, most=True, of_floor=False),
    Target("peak memory of coordinator", 300, most=True, of_floor=False),
)
GROUPS: dict[str, Callable[[int, Path | None, bool], Iterator[Row]]] = {
    "large": large_rows,
    "small": small_rows,
}


def verdicts(rows: Sequence[Row]) -> list[str]:
    """The targets are for one coordinator process."""
    single = [row for row in rows if not row.name.endswith("workers")]
    return [t.verdict(row) for t in TARGETS for row in single if row.name.startswith(t.row)]


def main(arguments: Sequence[str]) -> None:
    parser = argparse.ArgumentParser("bench.run", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", choices=sorted(GROUPS), help="only these rows")
    parser.add_argument("--quick", action="store_true", help="less of everything: a first look")
    parser.add_argument("--dir", type=Path, help="where the servers keep their data; else /tmp")
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args(arguments)
    rows: list[Row] = []
    print(f"{os.cpu_count()} cores, {platform.platform()}, load {os.getloadavg()[0]:.2f}")
    for group in [options.only] if options.only else GROUPS:
        for row in GROUPS[group](options.rounds, options.dir, options.quick):
            print(".", end="", flush=True)
            rows.append(row)
    print()
    print_table(rows)
    print("\n".join(verdicts(rows)))
    write_rows(options.out, rows)
    print(f"written to {options.out}")


if __name__ == "__main__":
    main(sys.argv[1:])

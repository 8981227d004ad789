"""`make bench-scale`: what a million segments and a thousand nodes change.

The floor of a cost is what the same costs on an empty store, in alternating runs, and the fraction
their ratio. HTTP: whole PUTs and GETs, on local clusters. Metadata: what they ask of the database,
alone and as fast as it can answer. Placement: a thousand nodes fill up.
"""

import argparse
import asyncio
import tempfile
from pathlib import Path

from bench.rows import Row, print_table, write_rows
from bench.scale_http import measure_http
from bench.scale_metadata import measure_metadata
from bench.scale_placement import measure_placement

RESULTS = Path(__file__).with_name("results") / "scale.json"


async def measure(options: argparse.Namespace, directory: Path) -> list[Row]:
    empty, full = directory / "empty", directory / "full"
    rows = await measure_metadata(
        full / "coordinator", options.segments, options.rounds, options.calls
    )
    rows += await measure_http(empty, full, options.rounds, options.requests)
    return rows + await measure_placement(directory / "placement", options.placements)


def main() -> None:
    parser = argparse.ArgumentParser("bench.scale", description=__doc__)
    parser.add_argument("--segments", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=5, help="runs on each database")
    parser.add_argument("--calls", type=int, default=6400, help="PUTs to the database in a run")
    parser.add_argument("--requests", type=int, default=2000, help="HTTP requests in a run")
    parser.add_argument("--placements", type=int, default=1_000_000)
    parser.add_argument("--output", type=Path, default=RESULTS)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="sixfold-scale-") as directory:
        rows = asyncio.run(measure(options, Path(directory)))
    print_table(rows)
    write_rows(options.output, rows)
    print(f"written to {options.output}")


if __name__ == "__main__":
    main()

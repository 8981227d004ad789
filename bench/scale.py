"""`make bench-scale`: what a million segments and a thousand nodes change.

Metadata: each cost on a database with so many segments is held against that on an empty one, in
alternating runs; the floor of a row is the empty one, its fraction the ratio. PUT, GET and DELETE
are what these ask of the database, without shards. Placement: a thousand nodes fill up.
"""

import argparse
import asyncio
import tempfile
from pathlib import Path

from bench.rows import Row, print_table, write_rows
from bench.scale_metadata import measure_metadata
from bench.scale_placement import measure_placement

RESULTS = Path(__file__).with_name("results") / "scale.json"


async def measure(options: argparse.Namespace, directory: Path) -> list[Row]:
    metadata = await measure_metadata(
        directory / "full", options.segments, options.rounds, options.calls
    )
    return metadata + await measure_placement(directory / "cluster", options.placements)


def main() -> None:
    parser = argparse.ArgumentParser("bench.scale", description=__doc__)
    parser.add_argument("--segments", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=5, help="runs on each database")
    parser.add_argument("--calls", type=int, default=6400, help="PUTs by 64 clients in a run")
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

"""`make bench-micro`: each piece of the servers alone, as a table and as JSON.

Codec, hashing, frames, record headers, ring and placement, metadata commits and look-ups, volume
appends and reads: the real parts on real files, in one process, without sockets.
"""

import argparse
import asyncio
import os
import platform
import re
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path

import uvloop
from rich.console import Console

from bench.micro.coding import codec_pieces, hash_pieces
from bench.micro.framing import frame_pieces, record_pieces
from bench.micro.harness import Group, Harness, Stage
from bench.micro.metadata import metadata_pieces
from bench.micro.placing import placing_pieces
from bench.micro.volumes import volume_pieces
from bench.rows import ROUNDS, Row, print_table, write_rows
from common.interpreter import calm_the_collector

RESULTS = Path(__file__).parents[1] / "results" / "micro.json"
GROUPS: Sequence[Group] = (
    codec_pieces,
    hash_pieces,
    frame_pieces,
    record_pieces,
    placing_pieces,
    metadata_pieces,
    volume_pieces,
)


def rows(harness: Harness, directory: Path | None = None, only: str = "") -> Iterator[Row]:
    """Of the pieces whose names the regular expression `only` finds; files go to a directory in
    `directory`, which is removed."""
    for group in GROUPS:
        with (
            asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner,
            tempfile.TemporaryDirectory(prefix="sixfold-micro-", dir=directory) as temporary,
            closing(group(Stage(runner, Path(temporary)))) as pieces,
        ):
            yield from (harness.row(piece) for piece in pieces if re.search(only, piece.name))


def pattern(text: str) -> str:
    try:
        re.compile(text)
    except re.error as error:
        raise ValueError from error
    return text


def positive_number(text: str) -> int:
    number = int(text)
    if number < 1:
        raise ValueError
    return number


def main(arguments: Sequence[str]) -> None:
    parser = argparse.ArgumentParser("bench.micro", description=__doc__)
    parser.add_argument("--only", type=pattern, default="", help="pieces: 'append|commit'")
    parser.add_argument("--rounds", type=positive_number, default=ROUNDS)
    parser.add_argument("--dir", type=Path, help="where files go, a few GB; else /tmp")
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args(arguments)
    console = Console()
    console.print(f"{os.cpu_count()} cores, {platform.platform()}, load {os.getloadavg()[0]:.2f}")
    found = []
    for row in rows(Harness(options.rounds), options.dir, options.only):
        console.print(".", end="")
        found.append(row)
    if not found:
        parser.error(f"no piece has a name like {options.only!r}")
    console.print()
    print_table(found, console)
    write_rows(options.out, found)
    console.print(f"written to {options.out}")


if __name__ == "__main__":
    calm_the_collector()
    main(sys.argv[1:])

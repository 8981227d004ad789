"""Any six of the nine nodes suffice: contents of the sizes where something changes and of random
ones, whole and in ranges, over HTTP, with each of the 84 threes of nodes away, gone or rotten."""

import itertools
import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp
import uvloop

from common.units import KIB
from coordinator.config import ALL_SHARDS, DATA_SHARDS
from tests.blobs import put
from tests.torture.outcome import Outcome, quiet, scaled, scratch
from tests.whole_path import Bed, memory_bed

ROW = 7
PROMISE = "any six of nine shards suffice, for any size and range"
RANDOM_SIZES = 400
RANDOM_RANGES = 4  # of each content and subset

SEGMENT = 96 * KIB  # above 64 KiB, from where on threads verify and answers are streamed
SIZES = (
    0, 1, DATA_SHARDS - 1, DATA_SHARDS, DATA_SHARDS + 1, 4 * KIB,
    SEGMENT - 1, SEGMENT, SEGMENT + 1, 3 * SEGMENT + 12_345,
)  # fmt: skip
LARGEST = 5 * SEGMENT
FAULTS = ("away", "gone", "rotten")
SETTINGS = {"segment_bytes": SEGMENT, "cache_bytes": 0, "cache_segment_bytes": 0}


@dataclass
class Tally:
    contents: int = 0
    answers: int = 0
    violations: list[str] = field(default_factory=list)

    def figure(self) -> str:
        return (
            f"{len(subsets()):,} subsets x {self.contents:,} contents, {self.answers:,} answers, "
            f"{len(self.violations)} wrong"
        )


def main(scale: float, seed: int) -> Outcome:
    rng, tally = random.Random(seed), Tally()
    sizes = [*SIZES, *(_size(rng) for _ in range(scaled(RANDOM_SIZES, scale)))]
    with scratch("subsets", in_memory=True) as directory, quiet():
        uvloop.run(_run(directory, sizes, rng, tally))
    return Outcome(tally.figure(), tally.violations)


def subsets(away: int = ALL_SHARDS - DATA_SHARDS) -> list[tuple[int, ...]]:
    """The nodes that are not among the six; or more of them."""
    return list(itertools.combinations(range(1, ALL_SHARDS + 1), away))


def _size(rng: random.Random) -> int:
    """Small ones as often as large ones."""
    return rng.randint(0, rng.choice((100, 4 * KIB, 64 * KIB, SEGMENT, LARGEST)))


async def _run(directory: Path, sizes: list[int], rng: random.Random, tally: Tally) -> None:
    async with memory_bed(directory, jobs=False, **SETTINGS) as bed:
        for size in sizes:
            data = rng.randbytes(size)
            break_nodes(bed, (), 0)
            id_ = await put(bed.http, data)
            tally.contents += 1
            for turn, gone in enumerate(subsets()):
                break_nodes(bed, gone, rng.randrange(len(FAULTS)))
                for wanted in [None, *_ranges(size, turn, rng)]:
                    tally.answers += 1
                    if said := await _wrong(bed.http, id_, data, wanted):
                        tally.violations.append(f"{size} bytes, without {gone}, {wanted}: {said}")


def break_nodes(bed: Bed, gone: tuple[int, ...], turn: int) -> None:
    """Exactly these, each in another way."""
    faults = {node: FAULTS[(turn + at) % len(FAULTS)] for at, node in enumerate(gone)}
    bed.away(*(node for node in gone if faults[node] == "away"))
    for number, node in bed.cluster.memory.items():
        node.fault = faults.get(number, "")


def _ranges(size: int, turn: int, rng: random.Random) -> Iterator[tuple[int, int]]:
    """Some [start, end) of that many bytes: the ends, a shard's bounds and a segment's, in turn,
    and random ones."""
    if not size:
        return
    shard = -(-min(size, SEGMENT) // DATA_SHARDS)
    bounds = [
        (0, 1), (size - 1, size), (shard - 1, shard + 1), (SEGMENT - 1, SEGMENT + 1),
        (0, shard), (SEGMENT, 2 * SEGMENT),
    ]  # fmt: skip
    drawn = [sorted(rng.choices(range(size + 1), k=2)) for _ in range(RANDOM_RANGES)]
    for start, end in [bounds[turn % len(bounds)], *drawn]:
        if start < min(end, size):
            yield start, min(end, size)


async def _wrong(
    http: aiohttp.ClientSession, id_: str, data: bytes, wanted: tuple[int, int] | None
) -> str:
    """What is not as it should be about the answer, if anything."""
    start, end = wanted or (0, len(data))
    asked = {"Range": f"bytes={start}-{end - 1}"} if wanted else {}
    async with http.get(f"/v1/blobs/{id_}", headers=asked) as answer:
        if answer.status != (206 if wanted else 200):
            return f"status {answer.status}: {await answer.text()}"
        told = answer.headers.get("Content-Range", "")
        try:
            found = await answer.read()
        except aiohttp.ClientError as error:
            return f"cut off: {error}"
    if wanted and told != f"bytes {start}-{end - 1}/{len(data)}":
        return f"Content-Range {told}"
    return "" if found == data[start:end] else "wrong bytes"

"""The rows of small contents: rates and latencies of PUT and GET, and the client's own cost."""

import random
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path

from blake3 import blake3

from bench import pattern, small
from bench.bed import Bed, Sample, compare, fresh_bed
from bench.cluster import Servers
from bench.rows import Row
from common.units import KIB

SIZES_KIB = (4, 64)
CLIENTS = (1, 16, 64)
DURATION_S = 1.5
# More than the coordinator's cache holds. GETs go through it in the order of storing, where what
# lies beside each other is read once for all, and scattered, where nearly all ask the nodes.
WORKING_SET_BYTES = 80 << 20
HOT_OBJECTS = 200
CHECKED = 256  # of what a PUT row has stored, so many are read back and compared


# The requests of each side, by URL. A side always goes on where it stopped: began each round anew,
# the cache would hold what comes first.
Reads = dict[str, small.NextRequest]


def small_rows(rounds: int, parent: Path | None, quick: bool) -> Iterator[Row]:
    duration_s = DURATION_S / (3 if quick else 1)
    with fresh_bed(parent) as bed:
        for size_kib in SIZES_KIB[: 1 if quick else None]:
            yield from _rows(bed, rounds, size_kib, duration_s, CLIENTS)
    with fresh_bed(parent, ["--workers", "2"]) as bed:
        yield from _rows(bed, rounds, SIZES_KIB[0], duration_s, CLIENTS[-1:], ", 2 workers")


def _rows(
    bed: Bed,
    rounds: int,
    size_kib: int,
    duration_s: float,
    crowds: Sequence[int],
    suffix: str = "",
) -> Iterator[Row]:
    size_bytes, most = size_kib * KIB, crowds[-1]
    for clients in crowds:
        name = f"PUT {size_kib} KiB, {_clients(clients)}{suffix}"
        put = partial(_put, bed, name, size_bytes, clients, duration_s)
        yield from compare(rounds, _units(name), put, bed)
    stored = _fill(bed, size_bytes)
    cold = _reads(bed, stored, size_bytes)
    scattered = _reads(bed, random.Random(1).sample(stored, len(stored)), size_bytes)
    hot = _reads(bed, stored[:HOT_OBJECTS], size_bytes)
    for clients in crowds:
        name = f"GET {size_kib} KiB, {_clients(clients)}{suffix}"
        yield from _get_rows(bed, rounds, name, cold, clients, duration_s)
    for clients in sorted({crowds[0], most}):
        name = f"scattered GET {size_kib} KiB, {_clients(clients)}{suffix}"
        yield from _get_rows(bed, rounds, name, scattered, clients, duration_s)
    name = f"cached GET {size_kib} KiB, {_clients(most)}{suffix}"
    yield from _get_rows(bed, rounds, name, hot, most, duration_s)


def _reads(bed: Bed, contents: list[tuple[str, int]], size_bytes: int) -> Reads:
    return {side.url: small.gets(contents, size_bytes) for side in (bed.floor, bed.sixfold)}


def _get_rows(
    bed: Bed, rounds: int, name: str, reads: Reads, clients: int, duration_s: float
) -> Iterator[Row]:

    def get(servers: Servers) -> Sample:
        cpu_s = servers.cpu_s()
        outcome = small.run(servers.url, clients, reads[servers.url], duration_s)
        return _sample(name, outcome, servers.cpu_s() - cpu_s)

    yield from compare(rounds, _units(name), get, bed)


def _put(
    bed: Bed, name: str, size_bytes: int, clients: int, duration_s: float, servers: Servers
) -> Sample:
    seed, cpu_s = bed.new_seed(), servers.cpu_s()
    outcome = small.run(servers.url, clients, small.puts(seed, size_bytes), duration_s)
    found = _sample(name, outcome, servers.cpu_s() - cpu_s)
    step = -(-len(outcome.latencies_s) // CHECKED)
    sample = _contents(seed, range(0, len(outcome.latencies_s), step), size_bytes)
    small.run(servers.url, 1, small.gets(sample, size_bytes), answers=len(sample))
    return found


def _fill(bed: Bed, size_bytes: int) -> list[tuple[str, int]]:
    """Id and seed of a working set that both sides hold."""
    seed, objects = bed.new_seed(), WORKING_SET_BYTES // size_bytes
    for servers in (bed.floor, bed.sixfold):
        small.run(servers.url, CLIENTS[-1], small.puts(seed, size_bytes), answers=objects)
    return _contents(seed, range(objects), size_bytes)


def _contents(seed: int, numbers: Iterable[int], size_bytes: int) -> list[tuple[str, int]]:
    """Id and seed of contents that `small.puts(seed)` has stored, by the order of storing."""
    seeds = [seed + 1 + number for number in numbers]
    return [(blake3(pattern.small(each, size_bytes)).hexdigest(), each) for each in seeds]


def _sample(name: str, outcome: small.Outcome, cpu_s: float) -> Sample:
    answers = len(outcome.latencies_s)
    return {
        name: outcome.rate,
        f"p50, {name}": outcome.percentile_s(50) * 1e3,
        f"p99, {name}": outcome.percentile_s(99) * 1e3,
        f"CPU, {name}": cpu_s / answers * 1e6,
        f"client's CPU, {name}": outcome.client_cpu_s / answers * 1e6,
    }


def _units(name: str) -> dict[str, str]:
    return {
        name: "1/s",
        f"p50, {name}": "ms",
        f"p99, {name}": "ms",
        f"CPU, {name}": "us each",
        f"client's CPU, {name}": "us each",
    }


def _clients(clients: int) -> str:
    return "1 client" if clients == 1 else f"{clients} clients"

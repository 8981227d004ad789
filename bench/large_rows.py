"""The rows of large contents: PUT, GET, degraded GET, dedup PUT, and what they cost."""

from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path

from bench import large
from bench.bed import Bed, Sample, compare, fresh_bed
from bench.cluster import Servers, kill_nodes
from bench.pattern import content_id
from bench.rows import Row
from common.units import MIB

GB = 10**9
SIZES_MIB = (100, 800)
CLIENTS = (1, 4)
CROWD, CROWD_MIB = 16, 800


def large_rows(rounds: int, parent: Path | None, quick: bool) -> Iterator[Row]:
    """Each group of rows on a bed of its own, so that the disk never holds too much."""
    for size_mib in SIZES_MIB[: 1 if quick else None]:
        for clients in CLIENTS:
            with fresh_bed(parent) as bed:
                yield from _put_and_get(bed, rounds, size_mib, clients)
    size_mib = SIZES_MIB[0 if quick else -1]
    with fresh_bed(parent) as bed:
        yield from _dedup_and_degraded(bed, rounds, size_mib)
    with fresh_bed(parent) as bed:
        yield from _memory(bed, CROWD, SIZES_MIB[0] if quick else CROWD_MIB)


def _put_and_get(bed: Bed, rounds: int, size_mib: int, clients: int) -> Iterator[Row]:
    size_bytes, label = size_mib * MIB, f"{size_mib} MiB, {_clients(clients)}"
    contents: dict[str, int] = {}
    have_them = set[str]()

    def put(servers: Servers) -> Sample:
        if servers is bed.floor:
            bed.floor_mode("empty", 1)  # the next content takes the place of the last
        if not contents or servers.url in have_them:  # a new round, whoever comes first in it
            have_them.clear()
            contents.clear()
            contents.update(_new_contents(bed, clients, size_bytes))
        have_them.add(servers.url)
        puts = [partial(large.put, servers.url, i, s, size_bytes) for i, s in contents.items()]
        return _timed(f"PUT {label}", servers, puts, clients * size_bytes)

    def get(servers: Servers) -> Sample:
        gets = [partial(large.get, servers.url, i, s, size_bytes) for i, s in contents.items()]
        return _timed(f"GET {label}", servers, gets, clients * size_bytes)

    processes = bed.sixfold.pids if (size_mib, clients) == (SIZES_MIB[-1], 1) else ()
    yield from compare(rounds, _units(f"PUT {label}", processes), put, bed)
    yield from compare(rounds, _units(f"GET {label}", processes), get, bed)


def _dedup_and_degraded(bed: Bed, rounds: int, size_mib: int) -> Iterator[Row]:
    size_bytes = size_mib * MIB
    ((id_, seed),) = _new_contents(bed, 1, size_bytes).items()
    for servers in (bed.floor, bed.sixfold):
        large.put(servers.url, id_, seed, size_bytes)

    def measure(name: str, servers: Servers) -> Sample:
        transfer = (
            partial(large.put, servers.url, id_, seed, size_bytes)
            if name.startswith("dedup")
            else partial(large.get, servers.url, id_, seed, size_bytes)
        )
        return _timed(name, servers, [transfer], size_bytes)

    bed.floor_mode("dedup", 1)
    name = f"dedup PUT {size_mib} MiB, 1 client"
    yield from compare(rounds, _units(name), partial(measure, name), bed)
    for lost, killed in ((1, ["node-1"]), (3, ["node-2", "node-3"])):
        kill_nodes(bed.directory, killed)
        bed.floor_mode("lost", lost)
        bed = bed.without(killed)
        name = f"degraded GET {size_mib} MiB, {lost} of 9 nodes down"
        yield from compare(rounds, _units(name), partial(measure, name), bed)


def _memory(bed: Bed, uploads: int, size_mib: int) -> Iterator[Row]:
    """The peak of every process while many upload at once."""
    size_bytes = size_mib * MIB
    contents = _new_contents(bed, uploads, size_bytes).items()
    large.at_once([partial(large.put, bed.sixfold.url, i, s, size_bytes) for i, s in contents])
    for process, peak_bytes in bed.sixfold.peak_rss_bytes().items():
        name = f"peak memory of {process}, {uploads} uploads of {size_mib} MiB at once"
        yield Row.of(name, "MiB", [peak_bytes / MIB])


def _new_contents(bed: Bed, count: int, size_bytes: int) -> dict[str, int]:
    """Seeds by id."""
    seeds = [bed.new_seed() for _ in range(count)]
    return {content_id(seed, size_bytes): seed for seed in seeds}


def _timed(
    name: str, servers: Servers, transfers: Sequence[partial[None]], total_bytes: int
) -> Sample:
    before_s = servers.cpu_s_by_process()
    elapsed_s = large.at_once(transfers)
    spent = {
        process: (cpu_s - before_s[process]) / (total_bytes / GB)
        for process, cpu_s in servers.cpu_s_by_process().items()
    }
    by_process = {f"CPU of {process}, {name}": each for process, each in spent.items()}
    return {
        name: total_bytes / 1e6 / elapsed_s,
        f"CPU, {name}": sum(spent.values()),
        **by_process,
    }


def _units(name: str, processes: Iterable[str] = ()) -> dict[str, str]:
    each = {f"CPU of {process}, {name}": "s/GB" for process in processes}
    return {name: "MB/s", f"CPU, {name}": "s/GB", **each}


def _clients(clients: int) -> str:
    return "1 client" if clients == 1 else f"{clients} clients"

"""What `make bench` measures with: clients that notice a wrong byte, a floor that really stores."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from blake3 import blake3

from bench import large, pattern, run, small
from bench.bed import Bed, compare
from bench.cluster import Servers, floor_server
from bench.rows import Row
from common.units import KIB, MIB
from coordinator.config import SEGMENT_BYTES
from tests.local_cluster import LocalCluster

SIZE_BYTES = 2 * SEGMENT_BYTES + MIB + 5  # two segments and a bit of a third


@pytest.fixture(scope="module")
def floor(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Servers]:
    directory = tmp_path_factory.mktemp("floor")
    with floor_server(directory) as servers:
        yield servers


@pytest.fixture
def bed(floor: Servers, cluster: LocalCluster, tmp_path: Path) -> Bed:
    pids = {process["name"]: process["pid"] for process in cluster.described()["processes"]}
    return Bed(Servers(cluster.url, pids), floor, tmp_path)


@pytest.mark.parametrize("size_bytes", [1, 15, 16, 17, MIB, SIZE_BYTES])
def test_the_id_of_a_pattern_is_that_of_its_bytes(size_bytes: int) -> None:
    whole = b"".join(bytes(piece) for block in pattern.blocks(3, size_bytes) for piece in block)
    assert len(whole) == size_bytes
    assert pattern.content_id(3, size_bytes) == blake3(whole).hexdigest()
    if size_bytes <= MIB:
        assert pattern.small(3, size_bytes) == whole


@pytest.mark.parametrize("side", ["floor", "sixfold"])
def test_large_contents_come_back_from_both_sides(bed: Bed, side: str) -> None:
    servers: Servers = getattr(bed, side)
    seed, id_ = 11, pattern.content_id(11, SIZE_BYTES)
    large.put(servers.url, id_, seed, SIZE_BYTES)
    with pytest.raises(large.WrongAnswer):  # another content than its id says
        large.put(servers.url, id_, seed + 1, SIZE_BYTES)
    large.get(servers.url, id_, seed, SIZE_BYTES)
    with pytest.raises(large.WrongAnswer, match="block 0 is not what was sent"):
        large.get(servers.url, id_, seed + 1, SIZE_BYTES)
    with pytest.raises(large.WrongAnswer):
        large.get(servers.url, id_, seed, SIZE_BYTES - 1)


@pytest.mark.parametrize("lost", [1, 3])
def test_the_floor_decodes(bed: Bed, lost: int) -> None:
    id_ = pattern.content_id(12, SIZE_BYTES)
    large.put(bed.floor.url, id_, 12, SIZE_BYTES)
    bed.floor_mode("lost", lost)
    try:
        large.get(bed.floor.url, id_, 12, SIZE_BYTES)
    finally:
        bed.floor_mode("lost", 0)


@pytest.mark.parametrize("side", ["floor", "sixfold"])
def test_small_contents_come_back_from_both_sides(bed: Bed, side: str) -> None:
    servers: Servers = getattr(bed, side)
    seed = bed.new_seed()
    stored = small.run(servers.url, 3, small.puts(seed, 4 * KIB), answers=20)
    assert len(stored.latencies_s) == 20
    seeds = [seed + 1 + n for n in range(20)]
    ids = [blake3(pattern.small(each, 4 * KIB)).hexdigest() for each in seeds]
    contents = list(zip(ids, seeds, strict=True))
    found = small.run(servers.url, 4, small.gets(contents, 4 * KIB), answers=50)
    assert len(found.latencies_s) == 50
    with pytest.raises(large.WrongAnswer):  # not what that id names
        small.run(servers.url, 1, small.gets(contents, 5 * KIB), answers=1)
    with pytest.raises(large.WrongAnswer):  # another content than the one asked for
        small.run(servers.url, 1, small.gets([(ids[0], seeds[1])], 4 * KIB), answers=1)
    with pytest.raises(large.WrongAnswer):
        small.run(servers.url, 1, small.gets([("00" * 32, 1)], 4 * KIB), answers=1)


def test_a_figure_is_the_median_of_the_rounds_own_ratios(bed: Bed) -> None:
    samples = iter([10.0, 5.0, 4.0, 20.0, 30.0, 9.0])  # sixfold comes second, first, second
    (figure,) = compare(3, {"row": "MB/s"}, lambda servers: {"row": next(samples)}, bed)
    assert figure == Row("row", 5.0, "MB/s", 20.0, 0.3, 4.0, 9.0)


def test_targets_are_judged() -> None:
    figures = [
        Row("PUT 800 MiB, 1 client", 480.0, "MB/s", 800.0, 0.6, 470.0, 490.0),
        Row("p50, PUT 4 KiB, 1 client", 2.5, "ms", 1.0, 2.5, 2.4, 2.6),
        Row("CPU, GET 800 MiB, 1 client", 1.5, "s/GB", 0.5, 3.0, 1.4, 1.6),
    ]
    met, missed, cpu = run.verdicts(figures)
    assert met.startswith("met ") and "0.60 >= 0.6" in met
    assert missed.startswith("MISS") and "2.50 <= 2 x floor" in missed
    assert cpu.startswith("met ") and "1.50 <= 1.8 s/GB" in cpu

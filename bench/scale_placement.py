"""Placement on a large cluster: how evenly it fills, what moves when nodes join, what it costs.

The real Cluster and Membership, with nodes that report but that nobody connects to.
"""

import os
import random
import time
from array import array
from asyncio import gather
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from itertools import islice
from pathlib import Path
from statistics import fmean, median, pstdev

import aiohttp

from bench.rows import Row
from common.auth import ClusterSecret
from common.ids import SegmentId
from common.membership import NodeReport
from common.units import TIB
from coordinator.cluster import Cluster
from coordinator.config import Config
from coordinator.metadata import open_metadata
from coordinator.placement import CANDIDATES_PER_SHARD
from coordinator.ring import Ring, RingNode

K, N = 6, 9
NODES, JOINING, ZONES = 1000, 10, 20
CAPACITIES_BYTES = tuple(size * TIB for size in (4, 8, 12, 16, 20))
FILLED = 0.5  # of all capacity, at the end
PARTS = 20  # of the run: the nodes report after each
SAMPLE = 20_000  # segments whose ring order is compared
PLACEMENT_LIMIT_US = 100


def capacity_bytes(number: int) -> int:
    return CAPACITIES_BYTES[number % len(CAPACITIES_BYTES)]


def zone(number: int) -> str:
    return f"zone-{number // len(CAPACITIES_BYTES) % ZONES}"


def report_of(number: int, used_bytes: int) -> NodeReport:
    return NodeReport(
        node_id=f"{number:032x}",
        instance=f"{number:032x}",
        cluster_id="",
        name=f"node-{number}",
        zone=zone(number),
        http_url=f"http://node-{number}",
        data_host=f"node-{number}",
        data_port=1,
        capacity_bytes=capacity_bytes(number),
        used_bytes=used_bytes,
        free_bytes=capacity_bytes(number) - used_bytes,
        shards=0,
    )


class Simulation:
    """Nodes that fill up as segments are placed."""

    def __init__(self, cluster: Cluster, placements: int) -> None:
        self._cluster = cluster
        self._used = dict.fromkeys(range(1, NODES + 1), 0)
        # so large that the cluster fills however few segments there are: each stands for many
        total_bytes = sum(map(capacity_bytes, self._used))
        self._shard_bytes = int(total_bytes * FILLED / (placements * N))
        self.took_us = array("d")
        self.most_in_zone = 0

    async def report(self) -> None:
        """What a heartbeat of every node would do."""
        membership = self._cluster.membership
        reports = [report_of(number, used_bytes) for number, used_bytes in self._used.items()]
        answers = await gather(*(membership.report(each, os.urandom(16)) for each in reports))
        assert [answer.number for answer in answers] == list(self._used)
        for node in membership.nodes.values():
            node.reachable = True

    def place(self, segments: int) -> None:
        clock, cluster, shard_bytes = time.perf_counter, self._cluster, self._shard_bytes
        for _ in range(segments):
            id_ = SegmentId(os.urandom(32))
            started_s = clock()
            layout = cluster.place(id_, shard_bytes, K, N).layout
            self.took_us.append((clock() - started_s) * 1e6)
            for number in layout:
                cluster.membership.count_sent(number, shard_bytes)
                self._used[number] += shard_bytes
            self.most_in_zone = max(self.most_in_zone, *Counter(map(zone, layout)).values())

    def fills(self) -> list[float]:
        """Used percent of every node."""
        return [used / capacity_bytes(number) * 100 for number, used in self._used.items()]


@asynccontextmanager
async def open_cluster(directory: Path) -> AsyncIterator[Cluster]:
    metadata = open_metadata(directory, "", grace_s=0)
    await metadata.start()
    secret = ClusterSecret(os.urandom(32))
    config = Config(data=str(directory), secret_file="")
    async with aiohttp.ClientSession() as http:
        cluster = Cluster(config, secret, metadata, http, clock=lambda: 0.0)
        cluster.membership.on_report = lambda node: None  # nobody connects
        yield cluster
    await metadata.close()


async def measure_placement(directory: Path, placements: int) -> list[Row]:
    async with open_cluster(directory) as cluster:
        simulation = Simulation(cluster, placements)
        for _ in range(PARTS):
            await simulation.report()
            simulation.place(placements // PARTS)
    return [
        Row.of("placement: nodes", "nodes", [NODES]),
        Row.of("placement: segments placed", "segments", [len(simulation.took_us)]),
        *_times(simulation.took_us),
        *_spread(simulation.fills()),
        Row.of(
            "placement: most shards of a segment in one zone",
            "shards", [simulation.most_in_zone], N - K,
        ),
        *_movement(random.Random(1)),
    ]  # fmt: skip


def _times(took_us: Sequence[float]) -> list[Row]:
    each = len(took_us) // PARTS
    medians = [median(took_us[at : at + each]) for at in range(0, each * PARTS, each)]
    p99_us = sorted(took_us)[len(took_us) * 99 // 100]
    return [
        Row.of("placement: time, held against 100 µs", "µs", medians, PLACEMENT_LIMIT_US),
        Row.of("placement: time, full against empty cluster", "µs", medians[-1:], medians[0]),
        Row.of("placement: time, 99th percentile", "µs", [p99_us]),
    ]


def _spread(fills: Sequence[float]) -> list[Row]:
    low, high = min(fills), max(fills)
    return [
        Row("placement: used, mean of nodes", fmean(fills), "%", None, None, low, high),
        Row.of("placement: used, max − min", "points", [high - low]),
        Row.of("placement: used, standard deviation", "points", [pstdev(fills)]),
    ]


def _movement(seeded: random.Random) -> list[Row]:
    """How much of the ring's order 10 nodes more change: of the n first nodes, which are best for
    a segment, and of the candidates. The floor is the capacity that the new ones add."""
    numbers = range(1, NODES + JOINING + 1)
    members = [RingNode(n, f"{n:032x}", capacity_bytes(n)) for n in numbers]
    before, after = Ring(members[:NODES]), Ring(members)
    added = sum(node.capacity_bytes for node in members[NODES:])
    share = added / sum(node.capacity_bytes for node in members) * 100
    rows = []
    for name, count in (("n first nodes", N), ("candidates", CANDIDATES_PER_SHARD * N)):
        moved = 0
        for _ in range(SAMPLE):
            id_ = SegmentId(seeded.randbytes(32))
            first, then = (set(islice(ring.walk(id_), count)) for ring in (before, after))
            moved += len(first - then)
        percent = moved / (SAMPLE * count) * 100
        title = f"placement: {name} that move when {JOINING} nodes join"
        rows.append(Row.of(title, "%", [percent], share))
    return rows

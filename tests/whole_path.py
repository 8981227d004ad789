"""A whole coordinator, from its HTTP down, on nodes that are only memory: quick, and every byte of
theirs in the test's hands."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

import aiohttp

from common.errors import NodeUnreachable
from common.ids import ContentId, ShardAddress
from common.shards import Buffer, ShardMissing, ShardRecord
from common.units import GIB
from common.upkeep import ScrubReport
from coordinator.cluster import Cluster
from coordinator.config import Config
from coordinator.jobs import run_worker
from coordinator.metadata import StoredSegment
from coordinator.node import Node
from coordinator.remote_store import ShardThere
from coordinator.server import Coordinator
from tests.metadata_parts import Clock
from tests.reports import report_of
from tests.stores import SECRET, MemoryStore

FOREVER_S = 1e6


class MemoryNode(MemoryStore):
    """As much of a RemoteStore as a coordinator uses. `verified_at_s` is what it says of every
    shard. While `fault` is "gone" it knows of none, while it is "rotten" all fail their checksums.
    """

    verified_at_s: int | None = None
    fault = ""
    reads = 0
    passes = 0

    async def start_scrub(self) -> None:
        self.passes += 1

    async def scrub_state(self) -> ScrubReport:
        return ScrubReport(False, self.passes, 0, 0, 0, 0, 0, 0)

    async def read(
        self, addresses: Sequence[ShardAddress], into: Sequence[memoryview] | None = None
    ) -> list[ShardRecord | ShardMissing]:
        self.reads += 1
        if self.fault == "gone":
            return [ShardMissing(address) for address in addresses]
        answers = await super().read(addresses, into)
        return list(map(_rotten, answers)) if self.fault == "rotten" else answers

    async def delete(self, addresses: Sequence[ShardAddress], epoch: int = 0) -> None:
        await super().delete(addresses)

    async def head(self, address: ShardAddress) -> ShardThere | ShardMissing:
        return ShardThere(self.verified_at_s) if address in self.records else ShardMissing(address)


def _rotten(answer: ShardRecord | ShardMissing) -> ShardRecord | ShardMissing:
    """As in the place that it was read into."""
    if isinstance(answer, ShardMissing) or not answer.payload:
        return answer
    if isinstance(answer.payload, memoryview):
        answer.payload[0] ^= 1
        return answer
    return ShardRecord(answer.info, flipped(answer.payload, 0))


def flipped(data: Buffer, bit: int) -> bytes:
    """The same but for one bit."""
    changed = bytearray(data)
    changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)


async def _no_job(*arguments: object) -> None:
    """In place of a background job."""


class MemoryCluster(Cluster):
    """Nodes are in memory; `memory` has them by number."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.memory: dict[int, MemoryNode] = {}
        self.membership.on_report = self._remember

    def _remember(self, node: Node) -> None:
        self.memory.setdefault(node.number, MemoryNode())
        node.reachable = True

    def store(self, number: int) -> Any:
        if not self.membership.is_readable(number):
            raise NodeUnreachable(f"node {number} is away")
        return self.memory[number]


@dataclass(frozen=True, slots=True)
class Bed:
    """A coordinator that serves, a client session on it, its nodes, and its monotonic clock."""

    coordinator: Coordinator
    cluster: MemoryCluster
    http: aiohttp.ClientSession
    clock: Clock

    @property
    def url(self) -> str:
        return self.coordinator.url

    async def segments(self, id_: str) -> tuple[StoredSegment, ...]:
        manifest = await self.coordinator.metadata.find_content(ContentId.parse(id_))
        assert manifest is not None
        return manifest.segments

    def held(self, segment: StoredSegment, index: int) -> ShardRecord:
        """What the node of that shard has of it."""
        return self.cluster.memory[segment.layout[index]].records[segment.address(index)]

    def put_back(self, segment: StoredSegment, index: int, record: ShardRecord) -> None:
        """The node has this in its place from now on."""
        self.cluster.memory[segment.layout[index]].records[segment.address(index)] = record

    def rot(self, segment: StoredSegment, index: int) -> None:
        """Flip the first bit of a shard."""
        record = self.held(segment, index)
        self.put_back(segment, index, ShardRecord(record.info, flipped(record.payload, 0)))

    def lose(self, segment: StoredSegment, index: int) -> None:
        del self.cluster.memory[segment.layout[index]].records[segment.address(index)]

    def away(self, *numbers: int) -> None:
        """Exactly these nodes cannot be reached."""
        for node in self.cluster.membership.nodes.values():
            node.reachable = node.number not in numbers


@asynccontextmanager
async def memory_bed(
    directory: Path, nodes: int = 9, zones: int = 0, jobs: bool = True, **settings: Any
) -> AsyncIterator[Bed]:
    """Serves while the block runs. Nodes 1, 2, … are in as many `zones`, or each in its own.
    Without `jobs`, nothing happens behind the requests."""
    config = Config(
        data=str(directory), secret_file="unused", port=0,
        **({"suspect_after_s": FOREVER_S, "lost_after_s": 2 * FOREVER_S} | settings),
    )  # fmt: skip
    clock = Clock()
    worker = run_worker if jobs else _no_job
    with (
        patch("coordinator.server.Cluster", MemoryCluster),
        patch("coordinator.server.run_worker", worker),
    ):
        coordinator = Coordinator(config, SECRET, clock)
        async with coordinator, aiohttp.ClientSession(coordinator.url) as http:
            cluster = coordinator.cluster
            assert isinstance(cluster, MemoryCluster)
            for number in range(1, nodes + 1):
                zone = f"zone-{number % zones if zones else number}"
                report = report_of(
                    number, zone=zone, capacity_bytes=GIB, used_bytes=0, free_bytes=GIB
                )
                await cluster.membership.report(report, number.to_bytes(16, "big"))
            yield Bed(coordinator, cluster, http, clock)

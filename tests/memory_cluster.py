"""A cluster whose nodes are dictionaries, and the write path, read path and jobs over it."""

import os
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any, cast

from common.codec import Codec
from common.errors import NodeUnreachable
from common.ids import ContentId, SegmentId, ShardAddress
from common.shards import ShardRecord
from common.units import KIB
from common.upkeep import Quarantined, Why
from coordinator.buffers import StripeBuffers
from coordinator.cluster import Cluster
from coordinator.config import ALL_SHARDS, DATA_SHARDS, Config
from coordinator.deleting import OutboxWorker
from coordinator.metadata import Metadata
from coordinator.node import NodeState
from coordinator.offload import Offload
from coordinator.placement import Placement, Target
from coordinator.read_path import ReadPath
from coordinator.services import Services
from coordinator.sweep import SweepWorker
from coordinator.write_path import WritePath
from shardd.fence import Fence
from tests.metadata_parts import GRACE_S, Clock, seize_lease
from tests.stores import MemoryStore, make_shard

CODEC = Codec(DATA_SHARDS, ALL_SHARDS)
SEGMENT_BYTES = 4 * KIB


class KeepingStore(MemoryStore):
    """With a quarantine, a memory of what was ever deleted, and a fence as nodes have. Tests delete
    without an epoch."""

    def __init__(self) -> None:
        super().__init__()
        self.kept: dict[ShardAddress, ShardRecord] = {}
        self.deleted: list[ShardAddress] = []
        self.fence = Fence()

    async def delete(self, addresses: Sequence[ShardAddress], epoch: int | None = None) -> None:
        self._check(epoch)
        self.deleted += [address for address in addresses if address in self.records]
        await super().delete(addresses)

    def _check(self, epoch: int | None) -> None:
        if epoch is not None:
            self.fence.check(epoch)

    async def quarantine(self, addresses: Sequence[ShardAddress], epoch: int | None = None) -> int:
        self._check(epoch)
        found = [address for address in addresses if address in self.records]
        self.kept.update((address, self.records.pop(address)) for address in found)
        return len(found)

    async def quarantined(self) -> AsyncIterator[Quarantined]:
        for address in sorted(self.kept):
            yield Quarantined(address, Why.ORPHAN, 0, 0)

    async def restore(self, addresses: Sequence[ShardAddress]) -> int:
        found = [address for address in addresses if address in self.kept]
        self.records.update((address, self.kept.pop(address)) for address in found)
        return len(found)


class MemoryCluster:
    """As much of a Cluster as the paths and the jobs use. Nodes are numbered from 1."""

    def __init__(
        self,
        count: int = ALL_SHARDS,
        make: Callable[[int], KeepingStore] = lambda number: KeepingStore(),
    ) -> None:
        numbers = range(1, count + 1)
        self.stores = {number: make(number) for number in numbers}
        self.away: set[int] = set()
        self.leaving: set[int] = set()  # drained
        self.silent: set[int] = set()  # have not reported since this process began
        self.membership = SimpleNamespace(
            nodes={n: SimpleNamespace(number=n, reachable=True) for n in numbers},
            count_sent=lambda number, size_bytes: None,
            state=lambda node: NodeState.ACTIVE,
            is_leaving=lambda number: number in self.leaving,
            is_gone=lambda number: False,
            zone_of=lambda number: "zone",
            is_readable=lambda number: number not in self.away,
            is_lasting=lambda number: number not in self.away,
            has_reported=lambda number: number not in self.silent,
            all_have_reported=lambda: not self.silent,
        )

    def store(self, number: int) -> Any:
        if number in self.away:
            raise NodeUnreachable(f"node {number} is away")
        return self.stores[number]

    def node_name(self, number: int) -> str:
        return f"node-{number}"

    def place(self, segment: SegmentId, shard_bytes: int, k: int, n: int) -> Placement:
        """Turned round by the segment, so that shards of one index lie on all nodes; doubled up
        if there are few."""
        nodes = self._usable()
        turned = [nodes[(segment[0] + index) % len(nodes)] for index in range(max(n, len(nodes)))]
        return Placement(tuple(turned[:n]), tuple(turned[n:]))

    def candidates(self, segment: SegmentId, shard_bytes: int, k: int, n: int) -> list[Target]:
        return [Target(number, "zone", 0.0) for number in self._usable()]

    def _usable(self) -> list[int]:
        return sorted(self.stores.keys() - self.away - self.leaving)

    @property
    def cluster(self) -> Cluster:
        return cast(Cluster, self)

    def shards(self) -> set[tuple[int, ShardAddress]]:
        """All that is in service."""
        return {(n, address) for n, store in self.stores.items() for address in store.records}


@contextmanager
def paths(
    metadata: Metadata,
    cluster: Any,
    segment_bytes: int = SEGMENT_BYTES,
    straggler_s: float = 2.0,
    cache_bytes: int = 0,
) -> Iterator[tuple[WritePath, ReadPath]]:
    """Over these nodes. Nothing is read from memory, unless there is a cache."""
    config = Config(
        data="unused", secret_file="unused", segment_bytes=segment_bytes,
        straggler_s=straggler_s, cache_bytes=cache_bytes,
    )  # fmt: skip
    buffers, offload = StripeBuffers(config.buffer_bytes), Offload()
    services = Services(config, CODEC, cluster.cluster, metadata, buffers, offload)
    try:
        yield WritePath(services), ReadPath(services)
    finally:
        offload.close()


async def body(data: bytes) -> AsyncIterator[bytes]:
    yield data


async def put(writes: WritePath, data: bytes) -> ContentId:
    return (await writes.store(body(data), len(data))).id


async def get(reads: ReadPath, id_: ContentId) -> bytes:
    """The whole content."""
    manifest = await reads.find(id_)
    async with reads.open(manifest, 0, manifest.size_bytes) as pieces:
        found = b""
        async for piece in pieces:
            found += bytes(piece.data)
            piece.release()
    return found


class Sweeper:
    """Runs whole passes of the sweep."""

    def __init__(self, metadata: Metadata, nodes: MemoryCluster, clock: Clock) -> None:
        self.metadata, self.nodes, self.clock = metadata, nodes, clock
        self.worker = SweepWorker(metadata, nodes.cluster, every_s=0)

    async def later(self) -> None:
        """A grace period passes, and all sessions end; ours begins anew."""
        self.clock.now_s += GRACE_S
        await self.metadata._begin_session()

    async def run(self) -> None:
        """To the end of a pass."""
        while await self.worker.step():
            pass

    async def outbox(self) -> None:
        await seize_lease(self.metadata)
        await OutboxWorker(self.metadata, self.nodes.cluster).step()

    async def orphans_noted(self) -> int:
        rows = await self.metadata._read(lambda sql: sql.rows("SELECT count(*) FROM orphan"))
        return int(rows[0][0])


async def leave_orphans(metadata: Metadata, nodes: MemoryCluster, count: int = 1) -> None:
    """As an upload does that was cut off, on node 1."""
    for _ in range(count):
        seed = int.from_bytes(os.urandom(6), "big")
        await nodes.stores[1].append([make_shard(8, seed, metadata.new_generation())])

"""The whole store in one process: two coordinators' parts on the volume stores of nine nodes.

Between them there is no network: a coordinator calls the nodes' stores directly, behind the
interface that its lanes have. So a history of many steps takes a second, and nothing in it depends
on time: the clock is moved by hand.
"""

import asyncio
import math
import os
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, suppress
from dataclasses import replace
from pathlib import Path
from typing import TypeVar, cast

import aiohttp

from common.codec import Codec
from common.errors import NodeUnreachable, SessionLost, Undurable
from common.ids import ContentId, ShardAddress
from common.units import KIB, MIB
from common.upkeep import Quarantined
from coordinator.buffers import StripeBuffers
from coordinator.cluster import Cluster
from coordinator.config import Config
from coordinator.deleting import CollectWorker, OutboxWorker
from coordinator.draining import Draining
from coordinator.jobs import Worker
from coordinator.metadata import Wish, open_metadata
from coordinator.node import Node as Member
from coordinator.offload import Offload
from coordinator.read_path import ReadPath
from coordinator.rebalance import RebalanceWorker
from coordinator.rebundle import RebundleWorker
from coordinator.remote_store import RemoteStore
from coordinator.repair import RepairWorker
from coordinator.rot import RotWorker
from coordinator.scrub import ScrubWorker
from coordinator.services import Services
from coordinator.sweep import SweepWorker
from coordinator.throttle import Throttle
from coordinator.write_path import WritePath
from coordinator.write_upload import Stored
from shardd.store import VolumeStore
from tests.bundles import all_wait, another_on_its_way
from tests.metadata_parts import Clock, seize_lease
from tests.stores import SECRET
from tests.torture.storage_node import StorageNode

T = TypeVar("T")

NODES = range(1, 10)
ONE_ZONE = ["default"] * len(NODES)
COORDINATORS = 2
SEGMENT_BYTES = 390 * KIB  # shards of full segments are large ones, all others small ones
GRACE_S = 600
LOOK_S = 300  # coordinators look at least so often for who has reported
LEAST_NODES = 3  # a segment that is spread over fewer does not outlive the loss of one


class Direct:
    """What a coordinator asks a node for over lanes and HTTP, asked of its store."""

    def __init__(self, store: VolumeStore) -> None:
        self.append, self.read = store.append, store.read
        self.stat, self.list = store.stat, store.list
        self._store, self._kept = store, store.upkeep.quarantine
        self.restore, self.drop_quarantined = self._kept.restore, self._kept.drop

    async def delete(self, addresses: Sequence[ShardAddress], epoch: int) -> None:
        self._store.fence.check(epoch)
        await self._store.delete(addresses)

    async def quarantine(self, addresses: Sequence[ShardAddress], epoch: int) -> int:
        return await self._kept.set_aside(addresses, lambda: self._store.fence.check(epoch))

    async def quarantined(self, after: ShardAddress | None = None) -> AsyncIterator[Quarantined]:
        for kept in self._kept.page(after, sys.maxsize):
            yield kept


class Connected(Cluster):
    """The real cluster, but for what lies between it and the nodes: `direct` makes that, of a
    node's number and its store."""

    reached: Mapping[int, StorageNode]

    @staticmethod
    def direct(number: int, store: VolumeStore) -> Direct:
        return Direct(store)

    def store(self, number: int) -> RemoteStore:
        store = self.reached[number].reached
        if store is None:
            raise NodeUnreachable(f"node-{number} is down")
        return cast(RemoteStore, self.direct(number, store))

    def _connect(self, node: Member) -> None:
        node.reachable = self.reached[node.number].reached is not None


class Front:
    """As much of a coordinator process as there is between its HTTP handlers and its lanes."""

    def __init__(self, config: Config, nodes: Mapping[int, StorageNode], clock: Clock) -> None:
        self._config, self._nodes, self._clock = config, nodes, clock
        self._stack = AsyncExitStack()

    async def start(self) -> None:
        config = self._config
        self.metadata = open_metadata(
            Path(config.data), "", config.grace_s, self._clock, lost_after_s=config.lost_after_s
        )
        self._stack.push_async_callback(self.metadata.close)
        await self.metadata.start()
        http = await self._stack.enter_async_context(aiohttp.ClientSession())
        self.cluster = Connected(config, SECRET, self.metadata, http, self._clock)
        self.cluster.reached = self._nodes
        await self.cluster.membership.load()
        offload = Offload()
        self._stack.callback(offload.close)
        codec, buffers = Codec(6, 9), StripeBuffers(config.buffer_bytes)
        services = Services(config, codec, self.cluster, self.metadata, buffers, offload)
        self.services = services
        self.reads, self.writes = ReadPath(services), WritePath(services)
        jobs: list[Worker] = [
            CollectWorker(self.metadata, self.cluster),
            RebundleWorker(self.metadata, self.reads, self.writes.bundler, Throttle(math.inf)),
            OutboxWorker(self.metadata, self.cluster),
            SweepWorker(self.metadata, self.cluster, every_s=0),
            RepairWorker(services, Throttle(math.inf), self._clock),
            RebalanceWorker(services, Throttle(math.inf), self._clock),
            RotWorker(services),
            ScrubWorker(services, Throttle(math.inf), interval_s=1),
        ]
        self.draining = Draining(services)
        self.jobs = {job.name: job for job in jobs}
        self._session = asyncio.create_task(self.metadata.keep_session())

    async def close(self) -> None:
        await self.settle()
        self._session.cancel()
        with suppress(asyncio.CancelledError):
            await self._session
        await self._stack.aclose()

    async def settle(self) -> None:
        """Until what requests have left to do after their answers is done."""
        await self.writes.settle()
        await self.reads.settle()

    async def put(self, data: bytes) -> Stored:
        """As a client does who tries again when the lease of the session has run out."""
        return await self._in_a_session(lambda: self.writes.store(_chunks(data), len(data)))

    async def put_together(self, *contents: bytes) -> list[Stored | BaseException]:
        """While another upload is on its way, so that small ones share a bundle."""
        async with another_on_its_way(self.writes):
            puts = [asyncio.ensure_future(self.put(data)) for data in contents]
            await all_wait(self.writes, puts)
        return await asyncio.gather(*puts, return_exceptions=True)

    async def get(self, id_: ContentId, start: int = 0, end: int | None = None) -> bytes:
        """Raises NotFound, Unreadable."""
        manifest = await self.reads.find(id_)
        stop = manifest.size_bytes if end is None else min(end, manifest.size_bytes)
        async with self.reads.open(manifest, min(start, stop), stop) as pieces:
            data = b""
            async for piece in pieces:
                data += bytes(piece.data)
                piece.release()
            return data

    async def work(self, job: str) -> None:
        """The job's steps, until there is nothing left for it to do at once. Who has held its lease
        has lost it. A step that cannot be done now is done another time."""

        async def step() -> bool:
            await seize_lease(self.metadata, job)
            return await self.jobs[job].step()

        with suppress(Undurable):
            while await self._in_a_session(step):
                pass

    async def _in_a_session(self, act: Callable[[], Awaitable[T]]) -> T:
        """What it gives, if need be in the session that follows."""
        while True:
            session = self.metadata.session
            try:
                return await act()
            except SessionLost:
                while self.metadata.session == session:
                    await asyncio.sleep(0.001)


class Store:
    """The nodes, and the coordinators before them. Started by `start`, ended by `close`."""

    def __init__(self, directory: Path, zones: Sequence[str] = ONE_ZONE) -> None:
        """A node in each of `zones`."""
        self.clock = Clock()
        self.nodes = {
            number: StorageNode(number, directory / f"node-{number}", zone)
            for number, zone in enumerate(zones, 1)
        }
        config = Config(
            data=str(directory / "coordinator"),
            secret_file="",
            segment_bytes=SEGMENT_BYTES,
            buffer_bytes=4 * MIB,
            cache_bytes=0,
            grace_s=GRACE_S,
        )
        self.database = Path(config.data) / "metadata.db"
        self._config = config
        self.fronts = list[Front]()

    async def start(self) -> None:
        await self.start_fronts()
        for number in self.nodes:
            await self.restart(number)

    async def start_fronts(self) -> None:
        """Nodes that are up report to them."""
        self.fronts = [Front(self._config, self.nodes, self.clock) for _ in range(COORDINATORS)]
        for front in self.fronts:
            await front.start()
        for number in self.up:
            await self._report(number)

    async def restart_front(self, index: int, segment_bytes: int) -> None:
        """It cuts contents like this from now on."""
        await self.fronts[index].close()
        config = replace(self._config, segment_bytes=segment_bytes)
        self.fronts[index] = Front(config, self.nodes, self.clock)
        await self.fronts[index].start()
        for number in self.up:
            await self._report(number)

    async def stop_fronts(self) -> None:
        for front in self.fronts:
            await front.close()

    async def close(self) -> None:
        await self.stop_fronts()
        for node in self.nodes.values():
            await node.stop()

    @property
    def up(self) -> list[int]:
        return [number for number, node in self.nodes.items() if node.store is not None]

    async def restart(self, number: int) -> None:
        await self.nodes[number].start(self.fronts[0].metadata.cluster_id)
        await self._report(number)

    async def kill(self, number: int) -> None:
        """Every coordinator sees its lanes fail."""
        await self.nodes[number].stop()
        for front in self.fronts:
            front.cluster.membership.nodes[number].reachable = False

    async def _report(self, number: int) -> None:
        """To the one; the others find it in the database."""
        first, *others = (front.cluster.membership for front in self.fronts)
        node = self.nodes[number]
        answer = await first.report(await node.report(), os.urandom(16))
        node.hear(answer)
        for other in others:
            await other.look()

    async def wish(self, number: int, wish: Wish) -> None:
        """What the operator wants of a node; all coordinators know of it."""
        await self.fronts[0].metadata.set_wish(number, wish)
        for front in self.fronts:
            front.cluster.membership.wish_changed(number, wish)

    async def remove(self, front: int, number: int) -> None:
        """For good. Raises Conflict as long as it is needed."""
        members = self.fronts[front].cluster.membership
        await self.fronts[front].draining.remove(members.nodes[number].row.name)
        await self.wish(number, Wish.REMOVED)
        await self.kill(number)

    async def pass_time(self, seconds: int) -> None:
        """Who is up reports when it is over; the sessions' leases may have run out meanwhile."""
        while seconds > 0:
            self.clock.now_s += min(seconds, LOOK_S)
            seconds -= LOOK_S
            for front in self.fronts:
                await front.cluster.membership.look()
        for number in self.up:
            if not self.nodes[number].mute:
                await self._report(number)


async def _chunks(data: bytes) -> AsyncIterator[bytes]:
    for start in range(0, len(data), 64 * KIB):
        yield data[start : start + 64 * KIB]

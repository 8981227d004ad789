"""What the write path, the read path and the jobs share: the nodes, as stores."""

import asyncio
from collections.abc import Callable
from functools import partial

import aiohttp

from common.auth import ClusterSecret
from common.errors import NodeUnreachable, StorageFull, Undurable
from common.ids import SegmentId
from common.wire import LaneKind
from coordinator.config import Config
from coordinator.lanes import LaneLimits
from coordinator.links import Link
from coordinator.membership import Membership
from coordinator.metadata import Metadata, Wish
from coordinator.node import Node, NodeState
from coordinator.placement import Placement, Target, candidates, place
from coordinator.remote_store import RemoteStore


class Cluster:
    """Membership, and a link and a remote store for every node that has reported."""

    def __init__(
        self,
        config: Config,
        secret: ClusterSecret,
        metadata: Metadata,
        http: aiohttp.ClientSession,
        clock: Callable[[], float],
    ) -> None:
        self._secret, self._metadata, self._http = secret, metadata, http
        self._limits = {
            LaneKind.WRITE: LaneLimits(config.write_timeout_s),
            LaneKind.READ: LaneLimits(config.read_timeout_s),
        }
        self.membership = Membership(
            metadata, clock, config.suspect_after_s, config.lost_after_s, self._connect
        )
        self.membership.on_removed = self._disconnect
        self._stores: dict[int, RemoteStore] = {}
        self._closing: set[asyncio.Task[None]] = set()
        self.on_loss: Callable[[], None] = lambda: None  # called when a node is out of reach

    async def close(self) -> None:
        for number in list(self._stores):
            self._disconnect(number)
        await asyncio.gather(*self._closing)

    def store(self, number: int) -> RemoteStore:
        """Raises NodeUnreachable for a node that has not reported since this process began."""
        store = self._stores.get(number)
        if store is None:
            raise NodeUnreachable(f"{self.node_name(number)} has not been heard of")
        return store

    def place(self, segment: SegmentId, shard_bytes: int, k: int, n: int) -> Placement:
        """Where the shards of a new segment go.

        Raises Undurable if too few nodes are active for any PUT to be durable, StorageFull if too
        few of them have room: nothing is written then.
        """
        needed = -(-n // (n - k))
        members, found = self.membership, self.candidates(segment, shard_bytes, k, n)
        if len(found) >= needed:
            return place(found, k, n)
        active = members.count(NodeState.ACTIVE)
        if active >= needed:
            raise StorageFull(
                f"{len(found)} of {active} storage nodes have room, {needed} are needed"
            )
        raise Undurable(f"{active} storage nodes are active, {needed} are needed")

    def candidates(self, segment: SegmentId, shard_bytes: int, k: int, n: int) -> list[Target]:
        """The nodes that come into question, in ring order (see placement)."""
        members = self.membership
        return candidates(
            members.ring,
            partial(members.target, shard_bytes),
            partial(members.zone_sizes, shard_bytes),
            segment,
            k,
            n,
        )

    def node_name(self, number: int) -> str:
        node = self.membership.nodes.get(number)
        return node.row.name if node else f"node {number}"

    def _connect(self, node: Node) -> None:
        """A node has reported: see that there are lanes to where it is."""
        report = node.report
        assert report is not None
        if node.row.wish is Wish.REMOVED:
            return
        address = (report.data_host, report.data_port)
        store = self._stores.get(node.number)
        if store is not None:
            store.http_url = report.http_url
            store.link.node_reported(address)
            return

        def on_change(up: bool) -> None:
            node.reachable = up
            if not up:
                self.on_loss()

        link = Link(
            report.name,
            address,
            bytes.fromhex(self._metadata.cluster_id),
            bytes.fromhex(report.node_id),
            self._secret,
            self._limits,
            on_change,
        )
        self._stores[node.number] = RemoteStore(link, report.http_url, self._secret, self._http)

    def _disconnect(self, number: int) -> None:
        if store := self._stores.pop(number, None):
            closing = asyncio.create_task(store.link.close())
            self._closing.add(closing)
            closing.add_done_callback(self._closing.discard)

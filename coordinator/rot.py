"""Rot that nodes find by themselves: their scrubs put bad records out of service, and this job puts
the segments into the repair queue. Once repair has written the shard anew, the node forgets the bad
one; what no segment needs, nor any upload that goes on may come to need, it is told to drop. A node
that is read-only forgets nothing: so the list is gone through in turns, a page in each step."""

import logging

from common.errors import SixfoldError
from common.ids import ShardAddress
from coordinator.node import Node
from coordinator.services import Services

log = logging.getLogger(__name__)

AT_ONCE = 1_000


class RotWorker:
    """The job."""

    name = "rot"
    rest_s = 5.0

    def __init__(self, services: Services) -> None:
        self._services, self._metadata = services, services.metadata
        self._told: dict[int, ShardAddress] = {}  # the last of the page before, of each node

    async def step(self) -> bool:
        members = self._services.cluster.membership
        for node in list(members.nodes.values()):
            if node.report and node.report.bad_shards and members.is_readable(node.number):
                try:
                    await self._take_over(node)
                except SixfoldError as error:
                    log.warning("%s: its rotten shards: %s", node.row.name, error)
        return False

    async def _take_over(self, node: Node) -> None:
        store, rotten = self._services.cluster.store(node.number), list[ShardAddress]()
        async for kept in store.quarantined(self._told.pop(node.number, None)):
            if kept.why == "rot":
                rotten.append(kept.address)
            if len(rotten) == AT_ONCE:
                self._told[node.number] = kept.address
                break
        needless = await self._metadata.mending.queue_rotten(node.number, rotten)
        if needless and not await self._metadata.deletes_stopped():
            for address in needless:
                await store.drop_quarantined(address)

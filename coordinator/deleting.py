"""The two jobs that delete: `collect` contents from the database, `outbox` shards from nodes.

A deletion has three steps, each of which may be repeated: a transaction takes the rows away and
puts exact shards on exact nodes into the outbox (from then on they are doomed: a PUT of the same
bytes writes a new generation); the node deletes them; a transaction takes them out of the outbox.

Nothing is deleted while deletes are stopped, nor before the nodes concerned have reported since
this process began: only then is it known that the database is not a restored backup.
"""

import asyncio
import logging
from collections.abc import Sequence
from time import monotonic

from common.errors import SixfoldError
from common.failpoints import Point, failpoint
from common.ids import ShardAddress
from coordinator.cluster import Cluster
from coordinator.metadata import DeleteReason, Metadata, OutboxRow
from coordinator.remote_store import RemoteStore

log = logging.getLogger(__name__)

BATCH = 256
FRESH_S = 15.0  # rows that were read longer ago are read again


class OutboxWorker:
    """Does on nodes what transactions have decided: deletes exact shards on exact nodes. A row
    goes when its node has answered; while it does not, the row stays."""

    name = "outbox"
    rest_s = 1.0

    def __init__(self, metadata: Metadata, cluster: Cluster) -> None:
        self._metadata, self._cluster = metadata, cluster

    async def step(self) -> bool:
        """Each node by itself: one that is away holds up no other."""
        await self._metadata.forget_deletes_of_removed_nodes()
        nodes = await self._metadata.nodes_with_deletes()
        return any(await asyncio.gather(*map(self._serve, nodes)))

    async def _serve(self, node: int) -> bool:
        """Whether there may be more for this node at once."""
        members = self._cluster.membership
        if not members.is_readable(node) or not members.has_reported(node):
            return False
        asked_at_s = monotonic()
        rows = await self._metadata.due_deletes(node, BATCH)
        failpoint(Point.DELETES_READ)
        if monotonic() - asked_at_s > FRESH_S:
            return True  # this process was paused: others may have done all this long ago
        try:
            await self._send(self._cluster.store(node), rows)
        except SixfoldError as error:
            log.debug("outbox: %d deletes wait for node %d: %s", len(rows), node, error)
            return False
        failpoint(Point.DELETES_SENT)
        await self._metadata.finish_deletes([row.id for row in rows])
        failpoint(Point.DELETES_FINISHED)
        return len(rows) == BATCH

    async def _send(self, store: RemoteStore, rows: Sequence[OutboxRow]) -> None:
        orphans = [row for row in rows if row.why is DeleteReason.ORPHAN]
        others = [row for row in rows if row.why is not DeleteReason.ORPHAN]
        if others:
            await store.delete(_addresses(others))
        if orphans:
            await store.quarantine(_addresses(orphans))
            failpoint(Point.QUARANTINE_SENT)


def _addresses(rows: Sequence[OutboxRow]) -> list[ShardAddress]:
    return [address for row in rows for address in row.shards.addresses]


class CollectWorker:
    """Removes contents that nobody pins, once the grace period is over."""

    name = "collect"
    rest_s = 10.0

    def __init__(self, metadata: Metadata, cluster: Cluster) -> None:
        self._metadata, self._cluster = metadata, cluster

    async def step(self) -> bool:
        if not self._cluster.membership.all_have_reported():
            return False
        return await self._metadata.collect(BATCH) == BATCH

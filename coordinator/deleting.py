"""The two jobs that delete: `collect` contents from the database, `outbox` shards from nodes.

A deletion has three steps, each of which may be repeated: a transaction takes the rows away and
puts exact shards on exact nodes into the outbox (from then on they are doomed: a PUT of the same
bytes writes a new generation); the node deletes them; a transaction takes them out of the outbox.

A process may be paused at any moment, and go on when another does its job (`metadata/outbox.py`):
the epoch that goes with each request tells the nodes whose deletes come too late. A node that has
restarted does not know it any more; but what was on its way there is lost with its lanes, and what
was read long ago is not sent any more.

Nothing is deleted while deletes are stopped, nor before the nodes concerned have reported since
this process began: only then is it known that the database is not a restored backup.
"""

import asyncio
import logging
from dataclasses import replace
from time import monotonic

from common.errors import SixfoldError
from common.failpoints import Point, failpoint
from coordinator.cluster import Cluster
from coordinator.metadata import COLLECT, OUTBOX, DeleteReason, DueDeletes, Metadata
from coordinator.remote_store import RemoteStore

log = logging.getLogger(__name__)

BATCH = 256
FRESH_S = 15.0  # rows that were read longer ago are read again


class OutboxWorker:
    """Does on nodes what transactions have decided: deletes exact shards on exact nodes. A row
    goes when its node has answered; while it does not, the row stays."""

    name = OUTBOX
    rest_s = 1.0

    def __init__(self, metadata: Metadata, cluster: Cluster) -> None:
        self._metadata, self._cluster = metadata, cluster

    async def step(self) -> bool:
        """Until nothing is left to do on the nodes that can be asked. Each is served by itself: one
        that is slow holds up no other, since meanwhile this looks again for what there is."""
        serving: dict[int, asyncio.Task[None]] = {}
        async with asyncio.TaskGroup() as group:
            while True:
                for node in await self._to_serve():
                    if node not in serving:
                        serving[node] = group.create_task(self._serve(node))
                if serving:
                    await asyncio.wait(serving.values(), timeout=self.rest_s)
                serving = {node: task for node, task in serving.items() if not task.done()}
                if not serving:
                    return False

    async def _to_serve(self) -> list[int]:
        members = self._cluster.membership
        try:
            await self._metadata.forget_deletes_of_removed_nodes()
            nodes = await self._metadata.nodes_with_deletes()
        except SixfoldError as error:  # what is being done goes on
            log.warning("outbox: %s", error)
            return []
        return [n for n in nodes if members.is_readable(n) and members.has_reported(n)]

    async def _serve(self, node: int) -> None:
        """One batch after the other. What goes wrong on one node is no reason to stop others."""
        try:
            while await self._do_batch(node):
                pass
        except SixfoldError as error:
            log.debug("outbox: deletes wait for %s: %s", self._cluster.node_name(node), error)
        except Exception:
            log.exception("outbox: %s", self._cluster.node_name(node))

    async def _do_batch(self, node: int) -> bool:
        """Whether there may be more for this node at once."""
        asked_at_s = monotonic()
        due = await self._metadata.due_deletes(node, BATCH)
        failpoint(Point.DELETES_READ)
        if monotonic() - asked_at_s > FRESH_S:
            return True  # this process was paused: others may have done all this long ago
        if not due.rows:
            return False
        done = await self._send(self._cluster.store(node), due)
        failpoint(Point.DELETES_SENT)
        finished = await self._metadata.finish_deletes(done)
        failpoint(Point.DELETES_FINISHED)
        return finished and (len(due.rows) == BATCH or len(done.rows) < len(due.rows))

    async def _send(self, store: RemoteStore, due: DueDeletes) -> DueDeletes:
        """What has been done of it: deletes, or else orphans. Not one after the other: whatever is
        sent leaves at once after it was read."""
        orphans = [row for row in due.rows if row.why is DeleteReason.ORPHAN]
        others = [row for row in due.rows if row.why is not DeleteReason.ORPHAN]
        rows = others or orphans
        addresses = [address for row in rows for address in row.shards.addresses]
        if others:
            await store.delete(addresses, due.epoch)
        elif orphans:
            await store.quarantine(addresses, due.epoch)
            failpoint(Point.QUARANTINE_SENT)
        return replace(due, rows=rows)


class CollectWorker:
    """Removes contents that nobody pins, once the grace period is over."""

    name = COLLECT
    rest_s = 10.0

    def __init__(self, metadata: Metadata, cluster: Cluster) -> None:
        self._metadata, self._cluster = metadata, cluster

    async def step(self) -> bool:
        if not self._cluster.membership.all_have_reported():
            return False
        return await self._metadata.collect(BATCH) == BATCH

"""The sweep: finds shards that nothing refers to, and shards that should be there and are not.

A node at a time is listed, a page after the other. The node is listed first and the database asked
after, so that whatever was committed meanwhile counts. What nothing refers to is noted, and goes to
quarantine when a listing a grace period later finds it still so. It never takes shards of a live
session, and stops all deletes when a node has implausibly many orphans. What a layout names and the
listing lacks is asked for by address: only the node's own word that it has no such shard counts.
That goes on while deletes are stopped: in a restored database, layouts may name places of long ago.

To find what is missing, every segment's row is read once for each node: with hundreds of nodes that
is the larger part of the work.
"""

import asyncio
import logging
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import asdict, dataclass, replace
from typing import cast

from common.errors import SixfoldError
from common.failpoints import Point, failpoint
from common.ids import MAX_INDEX, ShardAddress
from common.shards import ShardInfo, ShardMissing
from common.upkeep import Why
from coordinator.cluster import Cluster
from coordinator.jobs import progress_in
from coordinator.metadata import Metadata
from coordinator.metadata.sweeping import Listing
from coordinator.remote_store import RemoteStore
from coordinator.wanted import SWEEP, wanted_passes

log = logging.getLogger(__name__)

PAGE = 1_000  # shards
CONDEMNED_AT_ONCE = 256
ASKED_AT_ONCE = 64
PAGE_REST_S = 0.02


@dataclass(frozen=True, slots=True)
class Progress:
    """Where the sweep stands, as it is kept in the database. `node` is 0 between two passes;
    `after` the text of an address, empty at the beginning; the counts are of the node. `served` is
    the last request for a pass that this or an earlier pass answers."""

    node: int = 0
    after: str = ""
    listed: int = 0
    missing: int = 0
    orphans: int = 0
    passes: int = 0
    served: int = 0


class SweepWorker:
    """One step is a page of one node."""

    name = SWEEP
    rest_s = 5.0

    def __init__(self, metadata: Metadata, cluster: Cluster, every_s: float) -> None:
        self._metadata, self._cluster, self._every_s = metadata, cluster, every_s

    async def step(self) -> bool:
        if not self._cluster.membership.all_have_reported():
            return False
        states = await self._metadata.job_states()
        progress = progress_in(states, self.name, Progress)
        if not progress.node:
            age_s = states[self.name].age_s if self.name in states else float("inf")
            wanted = wanted_passes(states, self.name)
            if age_s < self._every_s and wanted <= progress.served:
                return False
            progress = self._next_node(replace(progress, served=wanted))
        progress = await self._go_on(progress)
        await self._metadata.save_job_state(self.name, asdict(progress))
        await asyncio.sleep(PAGE_REST_S)
        return progress.node > 0

    def _next_node(self, progress: Progress) -> Progress:
        """Of the nodes that can be listed; after the last the pass is over."""
        members = self._cluster.membership
        later = [n for n in members.nodes if n > progress.node and members.is_readable(n)]
        passes = progress.passes + (not later)
        return Progress(node=min(later, default=0), passes=passes, served=progress.served)

    async def _go_on(self, progress: Progress) -> Progress:
        """A node that fails is left for the next pass: half a listing says nothing."""
        if not progress.node:
            return progress
        try:
            return await self._page(progress)
        except SixfoldError as error:
            log.warning("sweep: %s: %s", self._cluster.node_name(progress.node), error)
            return self._next_node(progress)

    async def _page(self, progress: Progress) -> Progress:
        node, store = progress.node, self._cluster.store(progress.node)
        after = ShardAddress.parse(progress.after) if progress.after else None
        if after is None:
            await self._take_back(store, node)
        addresses = await _list(store, after)
        failpoint(Point.SWEEP_LISTED)
        end = addresses[-1] if len(addresses) == PAGE else None
        wanted = await self._metadata.sweeping.expected(node, after, end, PAGE)
        if wanted.until is not None:
            end = ShardAddress(wanted.until, (1 << 64) - 1, MAX_INDEX)
            addresses = [address for address in addresses if address <= end]
        missing = await self._ask_for(store, node, set(wanted.shards) - set(addresses))
        orphans = await self._note(Listing(node, after, end, addresses))
        progress = replace(
            progress,
            after=str(end) if end else "",
            listed=progress.listed + len(addresses),
            missing=progress.missing + missing,
            orphans=progress.orphans + orphans,
        )
        return progress if end else await self._finish(progress)

    async def _take_back(self, store: RemoteStore, node: int) -> None:
        """From quarantine what turns out to be referred to after all."""
        orphans = [kept.address async for kept in store.quarantined() if kept.why is Why.ORPHAN]
        for at in range(0, len(orphans), PAGE):
            wanted = await self._metadata.sweeping.named(node, orphans[at : at + PAGE])
            if wanted:
                restored = await store.restore(wanted)
                name = self._cluster.node_name(node)
                log.error("sweep: %s took back %d shards from quarantine", name, restored)

    async def _ask_for(self, store: RemoteStore, node: int, absent: set[ShardAddress]) -> int:
        """Those that were not listed. How many segments were found to be short of shards."""
        wanted, found = sorted(absent), 0
        for at in range(0, len(wanted), ASKED_AT_ONCE):
            answers = await store.read(wanted[at : at + ASKED_AT_ONCE])
            missing = [each.address for each in answers if isinstance(each, ShardMissing)]
            found += await self._metadata.sweeping.note_missing(node, missing)
        return found

    async def _note(self, listing: Listing) -> int:
        """How many orphans there are in this stretch. While deletes are stopped nothing is noted:
        the grace period shall not begin before an operator has looked."""
        if await self._metadata.deletes_stopped():
            return 0
        judgement = await self._metadata.sweeping.judge(listing)
        if not judgement.news:
            return len(judgement.orphans)
        noted = await self._metadata.sweeping.note_orphans(listing)
        failpoint(Point.SWEEP_NOTED)
        return noted

    async def _finish(self, progress: Progress) -> Progress:
        """All of the node was listed: what is noted of it was seen just now."""
        node, sweeping = progress.node, self._metadata.sweeping
        if await self._metadata.deletes_stopped():
            return self._next_node(progress)
        await sweeping.look_at_share(node, progress.listed)
        condemned = 0
        while count := await sweeping.condemn(node, CONDEMNED_AT_ONCE):
            failpoint(Point.SWEEP_CONDEMNED)
            condemned += count
        if condemned:
            name = self._cluster.node_name(node)
            log.warning("sweep: %d orphans of %s go to quarantine", condemned, name)
        if reason := await self._metadata.deletes_stopped():
            log.critical("deletes are stopped: %s", reason)
        return self._next_node(progress)


async def _list(store: RemoteStore, after: ShardAddress | None) -> Sequence[ShardAddress]:
    addresses: list[ShardAddress] = []
    async with aclosing(cast(AsyncGenerator[ShardInfo, None], store.list(after))) as listing:
        async for info in listing:
            addresses.append(info.address)
            if len(addresses) == PAGE:
                break
    return addresses

"""Orphans that the sweep has put into quarantine, taken back from there."""

import logging
from collections.abc import Iterable

from common.errors import StorageFull, StoreReadOnly
from common.ids import SegmentId, ShardAddress
from common.upkeep import Why
from coordinator.cluster import Cluster
from coordinator.metadata.rows import GENERATION_COUNTER_BITS
from coordinator.remote_store import RemoteStore

log = logging.getLogger(__name__)

AT_ONCE = 100  # each is synced by itself


async def orphans_of(store: RemoteStore) -> list[ShardAddress]:
    """Those that a node keeps in quarantine."""
    return [kept.address async for kept in store.quarantined() if kept.why is Why.ORPHAN]


async def take_back(
    cluster: Cluster, nodes: Iterable[int], last_session: int
) -> set[tuple[SegmentId, int]]:
    """What these nodes keep as orphans of sessions up to this one is in service again: the segments
    and generations that it is of. What a node has no room for stays where it is. Raises
    NodeUnreachable."""
    writes = set[tuple[SegmentId, int]]()
    for node in nodes:
        store = cluster.store(node)
        orphans = [
            each
            for each in await orphans_of(store)
            if each.generation >> GENERATION_COUNTER_BITS <= last_session
        ]
        if not orphans:
            continue
        writes.update((each.segment, each.generation) for each in orphans)
        try:
            restored = [
                await store.restore(orphans[at : at + AT_ONCE])
                for at in range(0, len(orphans), AT_ONCE)
            ]
            log.warning("%s took back %d orphans", cluster.node_name(node), sum(restored))
        except (StorageFull, StoreReadOnly) as error:
            log.error("%s cannot take its orphans back: %s", cluster.node_name(node), error)
    return writes

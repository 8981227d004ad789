"""Orphans that the sweep has put into quarantine, taken back from there."""

import logging
from collections.abc import Iterable

from common.errors import StorageFull, StoreReadOnly
from common.ids import SegmentId
from coordinator.cluster import Cluster
from coordinator.metadata import Metadata

log = logging.getLogger(__name__)

AT_ONCE = 100  # each is synced by itself


async def take_back(
    metadata: Metadata, cluster: Cluster, nodes: Iterable[int]
) -> set[tuple[SegmentId, int]]:
    """What the database, which may not have known it, has sent to quarantine on these nodes is in
    service again: the segments and generations that it is of. What a node has no room for stays
    where it is. Raises NodeUnreachable."""
    writes = set[tuple[SegmentId, int]]()
    for node in nodes:
        orphans, store = await metadata.sweeping.set_aside(node), cluster.store(node)
        writes.update((each.segment, each.generation) for each in orphans)
        try:
            for at in range(0, len(orphans), AT_ONCE):
                restored = await store.restore(orphans[at : at + AT_ONCE])
                log.warning("%s took back %d orphans", cluster.node_name(node), restored)
        except (StorageFull, StoreReadOnly) as error:
            log.error("%s cannot take its orphans back: %s", cluster.node_name(node), error)
    return writes

"""What must hold of a store (one_process.py) once repair has nothing left to do."""

from collections import Counter
from collections.abc import AsyncIterator, Mapping

from common.ids import ContentId
from common.shards import ShardMissing
from coordinator.metadata import StoredSegment
from coordinator.metadata.rows import NO_NODE
from tests.torture.one_process import Store

PATIENCE_S = 700  # longer than repair ever waits before it tries again, and than a place rests
ROUNDS = 6


async def repaired(store: Store, *fronts: int) -> None:
    """Run repair in these coordinators, in turn, until the queue is empty or that has not helped
    for a long time."""
    for _ in range(ROUNDS):
        for front in fronts:
            await store.fronts[front].work("outbox")
            await store.fronts[front].work("repair")
        if not (await store.fronts[0].metadata.counts())["repair_queue"]:
            return
        await store.pass_time(PATIENCE_S)


async def faults(store: Store, contents: Mapping[ContentId, bytes]) -> AsyncIterator[str]:
    """Everything that is not as it should be: bytes, shards, where they lie, the queue."""
    for id_, data in contents.items():
        if await store.fronts[1].get(id_) != data:
            yield f"content {id_}: wrong bytes"
        for segment in (await store.fronts[0].reads.find(id_)).segments:
            async for fault in _faults_of(store, segment):
                yield f"segment {segment.id}: {fault}"
    if waiting := (await store.fronts[0].metadata.counts())["repair_queue"]:
        yield f"{waiting} segments are still in the repair queue"


async def _faults_of(store: Store, segment: StoredSegment) -> AsyncIterator[str]:
    used = set(segment.layout)
    if _crowds_a_zone(store, segment):
        yield f"too many in a zone for no need: {segment.layout} on nodes {store.up}"
    if NO_NODE in used or len(used) < min(segment.n, len(store.up)):
        yield f"not spread as it could be: {segment.layout} on nodes {store.up}"
    for index, number in enumerate(segment.layout):
        held = store.nodes[number].store if number != NO_NODE else None
        if held is None:
            yield f"shard {index} is on node {number}, which is not there"
            continue
        (record,) = await held.read([segment.address(index)])
        if isinstance(record, ShardMissing) or not record.is_intact():
            yield f"shard {index} on node {number} is missing or bad"
        elif record.info.checksum != segment.checksum(index):
            yield f"shard {index} on node {number} is not what the metadata says"


def _crowds_a_zone(store: Store, segment: StoredSegment) -> bool:
    """Whether one has more shards than may be lost while another could take some of them."""
    zones = Counter(store.nodes[number].zone for number in segment.layout if number != NO_NODE)
    tolerated = segment.n - segment.k
    roomy = {store.nodes[n].zone for n in store.up if n not in segment.layout}
    return max(zones.values()) > tolerated and any(zones[zone] < tolerated for zone in roomy)


async def left_behind(store: Store) -> list[str]:
    """Shards that nothing refers to, once the outbox and the sweep have done their work."""
    for _ in range(3):  # an orphan is listed twice, a grace apart, and then set aside
        await store.pass_time(PATIENCE_S)
        for job in ("sweep", "outbox"):
            await store.fronts[0].work(job)
    held = sum([len(await store.nodes[number].shards()) for number in store.up])
    wanted = 9 * (await store.fronts[0].metadata.counts())["segment"]
    return [f"{held} shards are held, {wanted} wanted"] if held != wanted else []

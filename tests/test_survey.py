"""What a look at all shards of a segment makes of one of which no checksum is known: no node had it
when the metadata was rebuilt."""

import os

from common.hashing import blake3_digest
from common.ids import ContentId
from coordinator.check import StripeCheck
from coordinator.metadata.rows import UNKNOWN_CHECKSUM, StoredSegment
from coordinator.rebuild import Rebuild
from tests.metadata_parts import execute
from tests.torture.one_process import Front, Store

DATA = os.urandom(5_000)


async def segment_of(front: Front) -> StoredSegment:
    """That of DATA."""
    (stored,) = (await front.reads.find(ContentId(blake3_digest(DATA)))).segments
    return stored


async def rebuild_without(store: Store, stored: StoredSegment, index: int) -> None:
    """The node with this shard is down, and stays so."""
    front = store.fronts[0]
    for table in ("segment", "pin", "content", "content_segment"):
        await execute(front.metadata, f"DELETE FROM {table}")
    await store.kill(stored.layout[index])
    await Rebuild(front.metadata, front.cluster, front.reads).run()
    assert (await segment_of(front)).checksum(index) == UNKNOWN_CHECKSUM


async def test_a_shard_without_a_checksum_is_mended_while_a_data_node_restarts(
    store: Store,
) -> None:
    """A row that nobody had filled was hashed too: all nine shards seemed to be bad."""
    front = store.fronts[0]
    await front.put(DATA)
    stored = await segment_of(front)
    await rebuild_without(store, stored, 8)
    await store.kill(stored.layout[0])
    await front.work("repair")
    mended = await segment_of(front)
    assert (mended.known_bad, mended.checksums) == (0, stored.checksums)
    await store.restart(stored.layout[0])
    assert (await StripeCheck(front.services).check(mended)).is_whole

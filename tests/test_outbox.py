"""The outbox: what a paused process still does must not hit what others have done since."""

from coordinator.metadata import DeleteReason, Metadata, ShardsOnNode
from tests.metadata_parts import due_deletes, segment


async def test_who_finishes_late_finishes_nobody_elses_delete(metadata: Metadata) -> None:
    """It was paused after its node's answer; another has done the same and finished it."""
    first, later = segment(metadata), segment(metadata)
    await metadata.add_deletes([ShardsOnNode(1, (first.address(0),))], DeleteReason.DOOMED)
    done = [row.id for row in await due_deletes(metadata)]
    await metadata.finish_deletes(done)
    await metadata.add_deletes([ShardsOnNode(2, (later.address(0),))], DeleteReason.DOOMED)
    await metadata.finish_deletes(done)
    assert [row.shards.addresses for row in await due_deletes(metadata)] == [(later.address(0),)]

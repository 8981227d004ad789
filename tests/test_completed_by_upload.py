"""A rebuild has found a part of an upload that goes on; what happens to that until it commits."""

from dataclasses import replace

from coordinator.metadata import Committed, DeleteReason, Metadata, ShardsOnNode, StoredSegment
from coordinator.metadata.restoring import REBUILDING, Found
from coordinator.metadata.rows import NO_NODE, UNKNOWN_CHECKSUM
from tests.metadata_parts import due_deletes, execute, segment, single
from tests.reports import incoming

MOVED = {0: 10, 1: 11, 2: 12, 3: 13}  # by repair: four nodes are drained


async def found_in_part(metadata: Metadata) -> StoredSegment:
    """All nine shards are durable, but the ninth was not when its node was listed. Four are moved.
    Given back is what the upload knows of it."""
    for number in range(1, 15):
        await metadata.save_report(incoming(number))
    whole = segment(metadata)
    checksums = whole.checksums[:-32] + UNKNOWN_CHECKSUM
    seen = replace(whole, layout=(*whole.layout[:8], NO_NODE), checksums=checksums)
    await metadata.stop_deletes(REBUILDING)
    assert await metadata.restore_segments([Found(seen, {whole.generation: 8})], REBUILDING) == []
    asked_at_s = (await metadata.mending.forbidden(seen)).asked_at_s
    assert await metadata.mending.switch_layout(seen, MOVED, asked_at_s)
    return whole


async def doomed(metadata: Metadata, stored: StoredSegment) -> set[tuple[int, int]]:
    """The places of its shards that are to be deleted."""
    await metadata.resume_deletes(REBUILDING)
    return {
        (address.index, row.shards.node)
        for row in await due_deletes(metadata)
        for address in row.shards.addresses
        if address.generation == stored.generation
    }


async def test_what_was_moved_meanwhile_stays_where_it_is(metadata: Metadata) -> None:
    """Where the upload had put it, it is about to be deleted."""
    whole = await found_in_part(metadata)
    committed = await metadata.commit_content(single(whole))
    assert committed == Committed(new=True, others=frozenset({whole.id}))
    known = await metadata.find_segment(whole.id)
    assert known is not None
    assert known.stored == replace(whole, layout=(10, 11, 12, 13, 5, 6, 7, 8, 9))
    assert (await metadata.counts())["repair_queue"] == 0
    assert await doomed(metadata, whole) == {(0, 1), (1, 2), (2, 3), (3, 4)}


async def test_what_is_about_to_be_deleted_is_named_no_more(metadata: Metadata) -> None:
    whole = await found_in_part(metadata)
    gone = ShardsOnNode(9, (whole.address(8),))
    await metadata.add_deletes([gone], DeleteReason.LEFTOVER)
    await metadata.commit_content(single(whole))
    known = await metadata.find_segment(whole.id)
    assert known is not None
    assert known.stored.layout == (10, 11, 12, 13, 5, 6, 7, 8, NO_NODE)
    assert (await metadata.counts())["repair_queue"] == 1
    assert (8, 9) in await doomed(metadata, whole)


async def test_what_a_layout_has_elsewhere_is_a_leftover(metadata: Metadata) -> None:
    """The upload wrote a shard twice, since the first answer came late."""
    whole = await found_in_part(metadata)
    upload = replace(whole, layout=(*whole.layout[:4], 14, *whole.layout[5:]))
    await metadata.commit_content(single(upload))
    assert (4, 14) in await doomed(metadata, whole)


async def test_a_shard_that_only_the_upload_knows_is_added_though_its_checksum_is_known(
    metadata: Metadata,
) -> None:
    """Repair has computed it, and found no node for it."""
    whole = await found_in_part(metadata)
    await execute(metadata, "UPDATE segment SET checksums = ?", whole.checksums)
    await metadata.commit_content(single(whole))
    known = await metadata.find_segment(whole.id)
    assert known is not None
    assert known.stored.layout == (10, 11, 12, 13, 5, 6, 7, 8, 9)
    assert (8, 9) not in await doomed(metadata, whole)

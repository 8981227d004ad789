"""Uploads that go on while the metadata is rebuilt."""

import asyncio
from dataclasses import replace

import pytest

from common.errors import SessionLost
from coordinator.metadata import DeleteReason, Metadata, ShardsOnNode
from coordinator.metadata.restoring import REBUILDING, Found
from coordinator.metadata.rows import UNKNOWN_CHECKSUM
from coordinator.rebuild import Rebuild
from tests.metadata_parts import NINE, segment, several, single
from tests.test_draining import THREE_SEGMENTS, slow_upload
from tests.torture.one_process import Front, Store


async def rebuild(front: Front) -> None:
    await Rebuild(front.metadata, front.cluster, front.reads).run()


@pytest.mark.parametrize("outbox_first", [True, False])
async def test_what_a_rebuild_has_found_of_an_upload_stays_when_that_is_refused(
    store: Store, outbox_first: bool
) -> None:
    """The client tries again, as it is told to, and its bytes are there already: they must stay."""
    front = store.fronts[0]
    go_on, upload = await slow_upload(front)
    await rebuild(front)
    go_on()
    with pytest.raises(SessionLost):
        await upload
    await front.settle()
    if outbox_first:
        await front.work("outbox")
    stored = await front.put(THREE_SEGMENTS)
    await store.pass_time(60)
    await front.work("outbox")
    assert await front.get(stored.id) == THREE_SEGMENTS


async def test_what_an_upload_has_given_up_before_is_not_found(store: Store) -> None:
    front = store.fronts[0]
    _, upload = await slow_upload(front)
    upload.cancel()
    with pytest.raises(asyncio.CancelledError):
        await upload
    await front.settle()
    await rebuild(front)
    assert (await front.metadata.counts())["segment"] == 0
    await front.work("outbox")
    assert not any([await store.nodes[number].shards() for number in store.up])


async def test_what_no_layout_names_is_deleted_all_the_same(store: Store) -> None:
    """Of the shards of one node, those that are named stay."""
    front = store.fronts[0]
    stored = (await front.reads.find((await front.put(b"some")).id)).segments[0]
    for at, node in enumerate(stored.layout):
        other = stored.layout[at - 1]
        for number in (node, other):
            await front.metadata.add_deletes(
                [ShardsOnNode(number, (stored.address(at),))], DeleteReason.LEFTOVER
            )
    rows = await front.metadata._read(
        lambda sql: sql.rows("SELECT node, indexes FROM outbox_delete")
    )
    assert {(node, indexes[0]) for node, indexes in rows} == {
        (stored.layout[at - 1], at) for at in range(9)
    }


@pytest.mark.parametrize("alone", [True, False])
async def test_an_upload_is_known_whole_though_a_rebuild_has_found_half_of_it(
    metadata: Metadata, alone: bool
) -> None:
    """The nodes were listed when two of its shards had arrived."""
    written = segment(metadata)
    upload = single(written) if alone else several(metadata, [written, segment(metadata)])
    seen = written.checksums[:64] + 7 * UNKNOWN_CHECKSUM
    half = replace(written, layout=(1, 2, *7 * (0,)), checksums=seen)
    await metadata.stop_deletes(REBUILDING)
    await metadata.restore_segments([Found(half, {half.generation: 2})], REBUILDING)
    assert await metadata.find_segment(written.id) is None  # nobody may rely on it
    await metadata.commit_content(upload)
    found = await metadata.find_segment(written.id)
    assert found is not None
    assert (found.stored.layout, found.stored.checksums) == (NINE, written.checksums)
    assert (await metadata.counts())["repair_queue"] == 0

"""Generations tell acts of writing a segment apart, not which came later: the session of a process
that began first has the lower number for as long as it lives."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pytest

from common.hashing import blake3_digest
from common.ids import SegmentId
from common.shards import ShardRecord
from coordinator.metadata import DeleteReason, Metadata
from coordinator.metadata.restoring import REBUILDING, Found
from coordinator.metadata.writes import shards_of
from coordinator.rebuild import Rebuild
from tests.bundles import Ends
from tests.memory_cluster import MemoryCluster, Sweeper, get, paths, put
from tests.metadata_parts import GRACE_S, Clock, execute
from tests.reports import incoming
from tests.test_bundle_dangers import back_up, restore

BOTH = tuple[Metadata, Metadata]


@contextmanager
def ends_of(both: BOTH, nodes: MemoryCluster) -> Iterator[tuple[Ends, Ends]]:
    with paths(both[0], nodes) as low, paths(both[1], nodes) as high:
        yield low, high


@pytest.fixture
async def nodes(both: BOTH) -> MemoryCluster:
    """That have reported to both."""
    cluster = MemoryCluster()
    for number in cluster.stores:
        await both[0].save_report(incoming(number))
    return cluster


async def collected(metadata: Metadata, nodes: MemoryCluster, clock: Clock) -> None:
    """What was deleted is gone from the nodes; all sessions live on."""
    clock.now_s += GRACE_S
    await execute(metadata, "UPDATE session SET expires_at = expires_at + ?", GRACE_S + 99)
    await metadata.collect(100)
    await Sweeper(metadata, nodes, clock).outbox()
    assert nodes.shards() == set()


@pytest.mark.parametrize("size_bytes", [300, 4096, 10_000])
async def test_a_backup_from_before_another_process_wrote_it_again(
    both: BOTH, nodes: MemoryCluster, clock: Clock, size_bytes: int
) -> None:
    data = os.urandom(size_bytes)
    with ends_of(both, nodes) as (low, high):
        id_ = await put(high[0], data)
        backup = await back_up(both[0])
        await both[0].unpin(id_)
        await collected(both[0], nodes, clock)
        await put(low[0], data)
        await restore(both[0], backup)
        await Rebuild(both[0], nodes.cluster, low[1]).run()
        assert await get(low[1], id_) == data


async def left_behind(
    both: BOTH, nodes: MemoryCluster, clock: Clock, ends: Ends, data: bytes
) -> list[ShardRecord]:
    """What a write of it has left on nodes that nothing names any more, taken from there."""
    await both[0].unpin(await put(ends[0], data))
    records = [record for store in nodes.stores.values() for record in store.records.values()]
    await collected(both[0], nodes, clock)
    return records


@pytest.mark.parametrize("known_is_higher", [False, True])
async def test_what_was_written_since_the_nodes_were_asked_stays(
    both: BOTH, nodes: MemoryCluster, clock: Clock, known_is_higher: bool
) -> None:
    """An orphan of the same bytes does not take its place."""
    data = os.urandom(500)
    with ends_of(both, nodes) as ends:
        first, second = ends if known_is_higher else ends[::-1]
        orphans = await left_behind(both, nodes, clock, first, data)
        id_ = await put(second[0], data)
        written = {number: dict(store.records) for number, store in nodes.stores.items()}
        for store, orphan in zip(nodes.stores.values(), orphans, strict=True):
            store.records = {orphan.address: orphan}
        restore_segments = both[0].restore_segments

        async def later(found: Any, reason: str) -> Any:
            for number, records in written.items():
                nodes.stores[number].records.update(records)
            return await restore_segments(found, reason)

        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(both[0], "restore_segments", later)
            await Rebuild(both[0], nodes.cluster, second[1]).run()
        known = await both[0].find_segment(SegmentId(id_))
    assert known is not None
    assert known.stored.generation in {address.generation for address in written[1]}


async def test_what_is_not_what_its_id_says_takes_no_place(
    both: BOTH, nodes: MemoryCluster, clock: Clock
) -> None:
    """Though all its shards match the checksums that they came with. What is known may be on nodes
    that are away."""
    data = os.urandom(600)
    with ends_of(both, nodes) as (low, high):
        orphans = await left_behind(both, nodes, clock, low, data)
        id_ = await put(high[0], data)
        hidden = [dict(store.records) for store in nodes.stores.values()]
        for store, orphan in zip(nodes.stores.values(), orphans, strict=True):
            wrong = bytes(len(orphan.payload))
            info = orphan.info._replace(checksum=blake3_digest(wrong))
            store.records = {orphan.address: ShardRecord(info, wrong)}
        await Rebuild(both[0], nodes.cluster, low[1]).run()
        for store, records in zip(nodes.stores.values(), hidden, strict=True):
            store.records.update(records)
        assert await get(low[1], id_) == data


async def test_an_upload_that_is_refused_since_the_nodes_were_asked_hides_no_other(
    both: BOTH, nodes: MemoryCluster
) -> None:
    """Its shards were as many, and younger."""
    with ends_of(both, nodes) as (low, _):
        id_ = await put(low[0], b"honest")
        (old,) = await both[0].segments_after(b"", 2)
        young = replace(old, generation=both[0].new_generation())
        await both[0].add_deletes(shards_of(young), DeleteReason.LEFTOVER)
        for table in ("segment", "pin"):
            await execute(both[0], f"DELETE FROM {table}")
        await both[0].stop_deletes(REBUILDING)
        held = {old.generation: 9, young.generation: 9}
        await both[0].restore_segments([Found(young, held, others=[old])], REBUILDING)
        await both[0].restore_single_contents()
        assert await get(low[1], id_) == b"honest"

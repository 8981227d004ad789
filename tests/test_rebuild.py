"""Rebuilding the metadata from the nodes beside a database that knows something already."""

import os
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any

import pytest

from common.errors import Conflict, Unreadable
from common.shards import ShardRecord
from coordinator.metadata import Metadata
from coordinator.metadata.restoring import Found
from coordinator.read_path import ReadPath
from coordinator.rebuild import Rebuild
from coordinator.wanted import SCRUB, wanted_passes
from coordinator.write_path import WritePath
from tests.memory_cluster import MemoryCluster, Sweeper, get, paths, put
from tests.metadata_parts import Clock, execute, segment, seize_lease, single
from tests.stores import make_shard


async def rebuild(metadata: Metadata, nodes: MemoryCluster, reads: ReadPath) -> None:
    await Rebuild(metadata, nodes.cluster, reads).run()


async def test_what_was_forgotten_comes_back(
    metadata: Metadata, nodes: MemoryCluster, ends: tuple[WritePath, ReadPath]
) -> None:
    contents = {await put(ends[0], data): data for data in map(os.urandom, (0, 100, 20_000))}
    await forget_everything(metadata)
    await rebuild(metadata, nodes, ends[1])
    for id_, data in contents.items():
        assert await get(ends[1], id_) == data


async def test_what_is_about_to_be_deleted_does_not_come_back(
    metadata: Metadata, nodes: MemoryCluster, ends: tuple[WritePath, ReadPath], clock: Clock
) -> None:
    """Else it would be visible, and then its shards would go."""
    writes, reads = ends
    gone, again = os.urandom(100), os.urandom(100)
    for data in (gone, again):
        await metadata.unpin(await put(writes, data))
    sweeper = Sweeper(metadata, nodes, clock)
    await sweeper.later()
    assert await metadata.collect(10) == 2
    id_ = await put(writes, again)  # a new generation, beside the doomed one
    await forget_everything(metadata)
    await rebuild(metadata, nodes, reads)
    await sweeper.outbox()
    assert await get(reads, id_) == again
    assert (await metadata.counts())["segment"] == 2  # with its mark


async def test_what_was_written_again_since_the_backup_is_found(
    metadata: Metadata, nodes: MemoryCluster, ends: tuple[WritePath, ReadPath], clock: Clock
) -> None:
    """The backup names a generation that was deleted since; the nodes have a later one."""
    writes, reads = ends
    contents = {await put(writes, data): data for data in (b"single" * 9, os.urandom(20_000))}
    generations = await metadata._read(lambda sql: sql.rows("SELECT generation, id FROM segment"))
    for id_ in contents:
        await metadata.unpin(id_)
    sweeper = Sweeper(metadata, nodes, clock)
    await sweeper.later()
    assert await metadata.collect(10) == 2
    await sweeper.outbox()
    assert nodes.shards() == set()
    for data in contents.values():
        await put(writes, data)
    older = "UPDATE segment SET generation = ? WHERE id = ?"
    await metadata._write(lambda sql: [sql.run(older, *row) for row in generations])
    with pytest.raises(Unreadable):
        await get(reads, next(iter(contents)))
    await rebuild(metadata, nodes, reads)
    for id_, data in contents.items():
        assert await get(reads, id_) == data
    await sweeper.outbox()
    for id_, data in contents.items():
        assert await get(reads, id_) == data


class Paused(Rebuild):
    """Between its listings and its transaction, something else happens."""

    def __init__(
        self,
        metadata: Metadata,
        nodes: MemoryCluster,
        reads: ReadPath,
        meanwhile: Callable[[], Awaitable[None]],
    ) -> None:
        super().__init__(metadata, nodes.cluster, reads)
        self._meanwhile = meanwhile

    async def _flush(self) -> None:
        await self._meanwhile()
        await super()._flush()


async def test_nothing_is_deleted_between_its_listings_and_its_transaction(
    metadata: Metadata, nodes: MemoryCluster, ends: tuple[WritePath, ReadPath], clock: Clock
) -> None:
    """What was uploaded again meanwhile was replaced by what was about to be deleted."""
    writes, reads = ends
    data, gone, sweeper = os.urandom(100), os.urandom(100), Sweeper(metadata, nodes, clock)
    id_ = await put(writes, data)
    for unpinned in (id_, await put(writes, gone)):
        await metadata.unpin(unpinned)
    await sweeper.later()

    async def meanwhile() -> None:
        assert await metadata.collect(10) == 0
        await sweeper.outbox()
        assert await put(writes, data) == id_

    await Paused(metadata, nodes, reads, meanwhile).run()
    await sweeper.later()
    assert await metadata.collect(10) == 1
    await sweeper.outbox()
    assert await get(reads, id_) == data
    assert len(nodes.shards()) == 9


async def test_a_delete_that_was_on_its_way_stays_in_the_outbox(
    metadata: Metadata, nodes: MemoryCluster, ends: tuple[WritePath, ReadPath], clock: Clock
) -> None:
    """Its node has done it, perhaps after it was listed: the segment is not to come back."""
    writes, reads = ends
    await metadata.unpin(await put(writes, b"gone" * 100))
    sweeper = Sweeper(metadata, nodes, clock)
    await sweeper.later()
    assert await metadata.collect(10) == 1
    await seize_lease(metadata)
    due = await metadata.due_deletes(1, 10)

    async def meanwhile() -> None:
        assert not await metadata.finish_deletes(due)

    await Paused(metadata, nodes, reads, meanwhile).run()
    assert (await metadata.counts())["segment"] == 0
    await sweeper.outbox()
    assert nodes.shards() == set()


async def test_one_that_an_operator_overtook_is_refused(
    metadata: Metadata, nodes: MemoryCluster, ends: tuple[WritePath, ReadPath]
) -> None:
    await put(ends[0], b"some")

    async def meanwhile() -> None:
        await metadata.allow_deletes()

    with pytest.raises(Conflict, match="rebuild it again"):
        await Paused(metadata, nodes, ends[1], meanwhile).run()


async def test_deletes_that_somebody_else_has_stopped_stay_so(
    metadata: Metadata, nodes: MemoryCluster, ends: tuple[WritePath, ReadPath]
) -> None:
    await rebuild(metadata, nodes, ends[1])
    assert await metadata.deletes_stopped() == ""
    await metadata.stop_deletes("an operator looks at something")
    await rebuild(metadata, nodes, ends[1])
    assert await metadata.deletes_stopped() == "an operator looks at something"


async def test_a_younger_write_is_not_replaced_by_an_older_one(metadata: Metadata) -> None:
    """The nodes that have it may just not have answered."""
    older, younger = (segment(metadata) for _ in range(2))
    older = replace(older, id=younger.id)
    await metadata.commit_content(single(younger))
    await metadata.stop_deletes("as a rebuild does")
    await metadata.restore_segments([Found(older, {older.generation: 9})], "as a rebuild does")
    found = await metadata.find_segment(younger.id)
    assert found is not None and found.stored.generation == younger.generation


@pytest.mark.parametrize("what", [
    {"generation": 1 << 63},
    {"generation": ((1 << 31) - 1) << 32},
    {"generation": 5, "segment_bytes": 1 << 63},
    {"generation": 5, "k": 1, "n": 1},
    {"generation": 5, "k": 1, "n": 200},
])  # fmt: skip
async def test_a_strange_record_is_passed_over(
    metadata: Metadata, nodes: MemoryCluster, ends: tuple[WritePath, ReadPath], what: dict[str, Any]
) -> None:
    """Such as may stand behind a hole in a volume, and match its checksum."""
    id_, numbers = await put(ends[0], b"honest"), dict(what)
    shard = make_shard(100, 7, numbers.pop("generation"))
    info = shard.info._replace(**{"segment_bytes": 100, **numbers})
    await nodes.stores[5].append([ShardRecord(info, shard.payload)])
    for table in ("segment", "pin"):
        await execute(metadata, f"DELETE FROM {table}")
    report = await Rebuild(metadata, nodes.cluster, ends[1]).run()
    assert (report.strange, report.segments) == (1, 1)
    assert await get(ends[1], id_) == b"honest"
    assert await put(ends[0], b"new")


async def test_sessions_after_it_are_above_all_that_was_found(
    metadata: Metadata, nodes: MemoryCluster, ends: tuple[WritePath, ReadPath]
) -> None:
    """Else a generation could come a second time, with other bytes behind the same address."""
    written_by = metadata.session + 1000
    await nodes.stores[5].append([make_shard(100, 7, written_by << 32)])
    await rebuild(metadata, nodes, ends[1])
    assert metadata.session > written_by


async def forget_everything(metadata: Metadata) -> None:
    for table in ("segment", "pin", "content", "content_segment"):
        await execute(metadata, f"DELETE FROM {table}")


async def test_a_cut_that_is_half_collected_does_not_replace_the_new_one(
    metadata: Metadata, nodes: MemoryCluster, clock: Clock
) -> None:
    data, sweeper = os.urandom(10_000), Sweeper(metadata, nodes, clock)
    with paths(metadata, nodes, segment_bytes=4096) as (writes, reads):
        id_ = await put(writes, data)
        (old, *_) = (await reads.find(id_)).segments
    with paths(metadata, nodes, segment_bytes=64 * 1024) as (writes, reads):
        await put(writes, data)
        await execute(metadata, "DELETE FROM segment WHERE id = ?", old.id)
        for store in nodes.stores.values():
            await store.delete([old.address(index) for index in range(9)])
        await rebuild(metadata, nodes, reads)
        await sweeper.outbox()
        assert await get(reads, id_) == data


async def test_the_checksums_that_nodes_tell_are_looked_at_by_a_scrub(
    metadata: Metadata, nodes: MemoryCluster, ends: tuple[WritePath, ReadPath]
) -> None:
    await put(ends[0], b"some")
    await rebuild(metadata, nodes, ends[1])
    assert wanted_passes(await metadata.job_states(), SCRUB) == 1

"""Rebuilding the metadata from the nodes beside a database that knows something already."""

import os

import pytest

from common.errors import Unreadable
from coordinator.metadata import Metadata
from coordinator.read_path import ReadPath
from coordinator.rebuild import Rebuild
from coordinator.write_path import WritePath
from tests.memory_cluster import MemoryCluster, Sweeper, get, put
from tests.metadata_parts import Clock, execute


async def rebuild(metadata: Metadata, nodes: MemoryCluster, reads: ReadPath) -> None:
    await Rebuild(metadata, nodes.cluster, reads).run()


async def test_what_was_forgotten_comes_back(
    metadata: Metadata, nodes: MemoryCluster, ends: tuple[WritePath, ReadPath]
) -> None:
    contents = {await put(ends[0], data): data for data in map(os.urandom, (0, 100, 20_000))}
    for table in ("segment", "pin", "content", "content_segment"):
        await execute(metadata, f"DELETE FROM {table}")
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
    for table in ("segment", "pin"):
        await execute(metadata, f"DELETE FROM {table}")
    await rebuild(metadata, nodes, reads)
    await sweeper.outbox()
    assert await get(reads, id_) == again
    assert (await metadata.counts())["segment"] == 1


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

"""Bundles beside rebuilds of the metadata, restored backups, and what else goes wrong at a bad
moment: nothing that was acknowledged is lost."""

import asyncio
import os
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from common.errors import Undurable, Unreadable
from common.hashing import blake3_digest
from common.ids import SegmentId
from coordinator.metadata import Metadata, NewBundle, NewContent
from coordinator.metadata.sql import Sql
from coordinator.rebuild import Rebuild
from tests.bundles import (
    Ends,
    another_on_its_way,
    bundled,
    bundles_of,
    delete,
    ids_of,
    rebundler,
    small,
)
from tests.memory_cluster import MemoryCluster, Sweeper, get, paths, put
from tests.metadata_parts import GRACE_S, Clock, execute
from tests.reports import incoming

TABLES = (
    "segment", "pin", "content", "content_segment", "collect_queue", "rebundle_queue",
    "outbox_delete",
)  # fmt: skip
Rows = dict[str, list[tuple[Any, ...]]]


async def back_up(metadata: Metadata) -> Rows:
    def rows_of(sql: Sql) -> Rows:
        return {table: sql.rows(f"SELECT * FROM {table}") for table in TABLES}

    return await metadata._read(rows_of)


async def restore(metadata: Metadata, backup: Rows) -> None:
    for table, rows in backup.items():
        await execute(metadata, f"DELETE FROM {table}")
        for row in rows:
            marks = ",".join("?" * len(row))
            await execute(metadata, f"INSERT INTO {table} VALUES ({marks})", *row)


async def collect_all(
    ends: Ends, nodes: MemoryCluster, metadata: Metadata, clock: Clock, rounds: int = 3
) -> None:
    """Everything that deletes, and the moves between."""
    sweeper = Sweeper(metadata, nodes, clock)
    for _ in range(rounds):
        await sweeper.later()
        while await metadata.collect(100):
            pass
        await rebundler(ends, metadata).step()
        await sweeper.outbox()


async def rebuild(metadata: Metadata, nodes: MemoryCluster, ends: Ends) -> int:
    return (await Rebuild(metadata, nodes.cluster, ends[1]).run()).broken_bundles


async def refused_while_rebuilding(
    ends: Ends, nodes: MemoryCluster, metadata: Metadata, start: Callable[[], Awaitable[object]]
) -> None:
    """A bundle's shards are listed; then its commit is refused, and its shards go to the outbox;
    then the rebuild puts what it has found into the tables."""
    stored, refuse = asyncio.Event(), asyncio.Event()

    async def refused(new: NewBundle) -> list[bool]:
        stored.set()
        await refuse.wait()
        raise Undurable("nodes were lost meanwhile")

    real = metadata.restore_segments

    async def later(found: Any, reason: str) -> Any:
        refuse.set()
        await asyncio.gather(task, return_exceptions=True)
        await ends[0].settle()
        return await real(found, reason)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(metadata, "commit_bundle", refused)
        task = asyncio.ensure_future(start())
        await stored.wait()
        patched.setattr(metadata, "restore_segments", later)
        await rebuild(metadata, nodes, ends)


async def test_a_move_that_is_refused_while_the_metadata_is_rebuilt(
    ends: Ends, nodes: MemoryCluster, metadata: Metadata, clock: Clock
) -> None:
    contents = small(10)
    await bundled(ends, contents)
    await delete(metadata, nodes, clock, ids_of(contents)[:9])
    step = rebundler(ends, metadata).step
    await refused_while_rebuilding(ends, nodes, metadata, step)
    await collect_all(ends, nodes, metadata, clock)
    assert await get(ends[1], ids_of(contents)[9]) == contents[9]


async def test_uploads_that_are_refused_while_the_metadata_is_rebuilt(
    ends: Ends, nodes: MemoryCluster, metadata: Metadata
) -> None:
    contents = small(5)
    await refused_while_rebuilding(ends, nodes, metadata, lambda: bundled(ends, contents))
    await bundled(ends, contents)
    for id_, data in zip(ids_of(contents), contents, strict=True):
        assert await get(ends[1], id_) == data


async def test_a_bundle_of_which_a_rebuild_saw_a_part_is_whole_when_it_is_committed(
    ends: Ends, nodes: MemoryCluster, metadata: Metadata, clock: Clock
) -> None:
    contents = small(5)
    stored, go_on = asyncio.Event(), asyncio.Event()
    commit, last_step = metadata.commit_bundle, metadata.restore_single_contents
    segments = metadata.restore_segments

    async def slow(new: NewBundle) -> list[bool]:
        stored.set()
        await go_on.wait()
        return await commit(new)

    async def seen(found: Any, reason: str) -> Any:
        for number, records in hidden.items():
            nodes.stores[number].records.update(records)
        return await segments(found, reason)

    async def commit_first() -> int:
        go_on.set()
        assert {str(each.durability) for each in await puts} == {"9/9; survives=3"}
        return await last_step()

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(metadata, "commit_bundle", slow)
        patched.setattr(metadata, "restore_segments", seen)
        patched.setattr(metadata, "restore_single_contents", commit_first)
        puts = asyncio.ensure_future(bundled(ends, contents))
        await stored.wait()
        hidden = {number: dict(nodes.stores[number].records) for number in (1, 2, 3)}
        for number in hidden:
            nodes.stores[number].records.clear()
        await rebuild(metadata, nodes, ends)
    await Sweeper(metadata, nodes, clock).outbox()
    assert len(nodes.shards()) == 9


async def test_a_bundle_that_is_not_what_its_id_says_is_not_believed(
    ends: Ends, nodes: MemoryCluster, metadata: Metadata
) -> None:
    contents = small(10)
    await bundled(ends, contents)
    (number, address), *_ = [at for at in nodes.shards() if at[1].index == 3]
    right = nodes.stores[number].records[address]
    wrong = bytes([right.payload[0] ^ 1, *right.payload[1:]])
    info = right.info._replace(checksum=blake3_digest(wrong))
    nodes.stores[number].records[address] = type(right)(info, wrong)
    for table in ("segment", "pin", "content", "content_segment"):
        await execute(metadata, f"DELETE FROM {table}")
    assert await rebuild(metadata, nodes, ends) == 1
    nodes.stores[number].records[address] = right
    assert await rebuild(metadata, nodes, ends) == 0
    for id_ in ids_of(contents):
        await ends[1].find(id_)


async def test_a_backup_from_before_a_content_was_moved(
    ends: Ends, nodes: MemoryCluster, metadata: Metadata, clock: Clock
) -> None:
    """Also one that was deleted and put again: the queue still has it."""
    contents = small(10)
    await bundled(ends, contents)
    await metadata.unpin(ids_of(contents)[9])
    await put(ends[0], contents[9])
    backup = await back_up(metadata)
    for id_ in ids_of(contents)[:9]:
        await metadata.unpin(id_)
    await collect_all(ends, nodes, metadata, clock)
    assert len(nodes.shards()) == 9
    await restore(metadata, backup)
    await rebuild(metadata, nodes, ends)
    assert await get(ends[1], ids_of(contents)[9]) == contents[9]


async def test_a_backup_from_before_another_process_moved_it(
    both: tuple[Metadata, Metadata], clock: Clock
) -> None:
    """Whose session has the lower number: generations do not tell what came later."""
    low, high = both
    assert low.session < high.session
    nodes, contents = MemoryCluster(), small(10)
    for number in nodes.stores:
        await low.save_report(incoming(number))
    with paths(high, nodes) as ends_high, paths(low, nodes) as ends_low:
        await bundled(ends_high, contents)
        backup = await back_up(low)
        for id_ in ids_of(contents)[:9]:
            await low.unpin(id_)
        for _ in range(3):
            clock.now_s += GRACE_S
            await execute(low, "UPDATE session SET expires_at = expires_at + ?", GRACE_S + 99)
            await low.collect(100)
            await rebundler(ends_low, low).step()
            await Sweeper(low, nodes, clock).outbox()
        assert len(nodes.shards()) == 9
        await restore(low, backup)
        await rebuild(low, nodes, ends_low)
        await low.allow_deletes()
        await collect_all(ends_low, nodes, low, clock)
        assert await get(ends_low[1], ids_of(contents)[9]) == contents[9]


async def test_a_backup_that_says_bundle_where_the_content_is_alone_now(
    ends: Ends, nodes: MemoryCluster, metadata: Metadata, clock: Clock
) -> None:
    contents = small(10)
    await bundled(ends, contents)
    backup = await back_up(metadata)
    for id_ in ids_of(contents):
        await metadata.unpin(id_)
    await collect_all(ends, nodes, metadata, clock)
    assert nodes.shards() == set()
    id_ = await put(ends[0], contents[9])
    await restore(metadata, backup)
    await rebuild(metadata, nodes, ends)
    assert await get(ends[1], id_) == contents[9]


async def test_a_content_whose_bundle_the_database_has_lost_is_stored_again(
    ends: Ends, metadata: Metadata
) -> None:
    contents = small(4)
    await bundled(ends, contents)
    await execute(metadata, "DELETE FROM segment")
    await metadata.unpin(ids_of(contents)[0])
    answer, *_ = await bundled(ends, [contents[0], *small(2)])
    assert await get(ends[1], answer.id) == contents[0]


async def test_a_lost_piece_of_a_large_content_heals_it_when_it_is_put_again(
    ends: Ends, nodes: MemoryCluster
) -> None:
    """Also when much else is uploaded."""
    tail = os.urandom(500)
    large = await put(ends[0], os.urandom(4096) + tail)
    lost = SegmentId(blake3_digest(tail))
    for number, address in sorted(nodes.shards()):
        if address.segment == lost and number <= 4:
            del nodes.stores[number].records[address]
    with pytest.raises(Unreadable):
        await get(ends[1], large)
    await ends[1].settle()
    async with another_on_its_way(ends[0]):
        await put(ends[0], tail)
    await get(ends[1], large)


async def test_no_memory_for_a_bundle_ends_no_upload(
    ends: Ends, monkeypatch: pytest.MonkeyPatch
) -> None:
    buffers, contents = ends[0].bundler.services.buffers, small(3)
    real, refused = buffers.try_acquire, list[int]()

    def once(size_bytes: int) -> Any:
        if refused:
            return real(size_bytes)
        refused.append(size_bytes)
        raise OSError(12, "Cannot allocate memory")

    monkeypatch.setattr(buffers, "try_acquire", once)
    assert [each.new for each in await bundled(ends, contents)] == [True] * 3
    assert refused
    assert ends[0].bundler._running == 0


async def test_a_segment_beside_a_bundle_that_has_its_bytes_too_goes(
    ends: Ends, nodes: MemoryCluster, metadata: Metadata, clock: Clock
) -> None:
    """One upload found the content in a bundle; it is collected, another stores it alone, then the
    first commits."""
    contents = small(6)
    await bundled(ends, contents)
    id_ = ids_of(contents)[0]
    copy = await metadata.find_copy(id_)
    assert copy is not None and copy.segment is not None
    await metadata.unpin(id_)
    await Sweeper(metadata, nodes, clock).later()
    await metadata.collect(100)
    await put(ends[0], contents[0])
    part = NewContent(id_, 300, [copy.segment.stored], None, [], start_bytes=copy.start_bytes)
    await metadata.commit_content(part)
    await collect_all(ends, nodes, metadata, clock)
    assert await get(ends[1], id_) == contents[0]
    assert SegmentId(id_) not in {address.segment for _, address in nodes.shards()}


async def test_what_came_back_while_a_bundle_was_moved_is_moved_next_time(
    ends: Ends, nodes: MemoryCluster, metadata: Metadata, clock: Clock
) -> None:
    contents = small(10)
    await bundled(ends, contents)
    ids = ids_of(contents)
    copy = await metadata.find_copy(ids[0])
    assert copy is not None and copy.segment is not None
    for id_ in ids[:9]:
        await metadata.unpin(id_)
    sweeper = Sweeper(metadata, nodes, clock)
    await sweeper.later()
    await metadata.collect(100)
    ((bundle, parts),) = await metadata.rebundling.wasteful(10)
    smalls = await rebundler(ends, metadata)._read(bundle, parts)
    await metadata.unpin(ids[9])
    await sweeper.later()
    part = NewContent(ids[0], 300, [copy.segment.stored], None, [], start_bytes=copy.start_bytes)
    await metadata.commit_content(part)
    await metadata.collect(100)
    await ends[0].bundler.move(smalls)
    await collect_all(ends, nodes, metadata, clock, rounds=5)
    assert await bundles_of(ends[1], contents[:1]) != {bundle.id}
    assert await get(ends[1], ids[0]) == contents[0]


async def test_what_is_tiny_is_not_waste_by_itself(
    ends: Ends, nodes: MemoryCluster, metadata: Metadata, clock: Clock
) -> None:
    contents = [number.to_bytes(3, "big") for number in range(1000, 1200)]
    await bundled(ends, contents)
    before = await bundles_of(ends[1], contents[10:])
    for id_ in ids_of(contents)[:5]:
        await metadata.unpin(id_)
    await collect_all(ends, nodes, metadata, clock)
    assert await bundles_of(ends[1], contents[10:]) == before

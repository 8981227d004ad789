"""What comes to the writer at once is written at once: each job sees what those before it did."""

import asyncio
from collections.abc import Sequence
from pathlib import Path

from common.errors import StorageFull
from common.shards import ShardRecord
from common.units import KIB, MIB
from shardd.group import Incoming, Move, WriteJob
from shardd.store import StoreLimits, VolumeStore
from shardd.volume import SUPERBLOCK_BYTES
from tests.stores import make_shard
from tests.upkeep import check, opened, without_index

SHARD, OTHER = make_shard(500, 1), make_shard(500, 2)


async def together(store: VolumeStore, *jobs: WriteJob) -> None:
    """One group: they are submitted as one."""
    answered = asyncio.Event()
    store.submit(jobs, lambda _: answered.set())
    await answered.wait()


def appending(*shards: ShardRecord) -> WriteJob:
    return WriteJob(appends=[Incoming(shard) for shard in shards])


def deleting(shard: ShardRecord) -> WriteJob:
    return WriteJob(deletes=[shard.address])


async def check_twice(path: Path, live: Sequence[ShardRecord], dead: Sequence[ShardRecord]) -> None:
    """With the index, and with one made anew from the volumes."""
    for _ in range(2):
        async with opened(path) as store:
            await check(store, live, dead)
        without_index(path)


async def test_what_was_appended_just_before_is_deleted(tmp_path: Path) -> None:
    async with opened(tmp_path) as store:
        await together(store, appending(SHARD, OTHER), deleting(SHARD))
        await check(store, [OTHER], [SHARD])
    await check_twice(tmp_path, [OTHER], [SHARD])


async def test_what_was_deleted_just_before_may_come_again(tmp_path: Path) -> None:
    async with opened(tmp_path) as store:
        await store.append([SHARD, OTHER])
        await together(store, deleting(SHARD), deleting(OTHER), appending(SHARD))
        await check(store, [SHARD], [OTHER])
    await check_twice(tmp_path, [SHARD], [OTHER])


async def test_what_was_deleted_just_before_gets_no_second_tombstone(tmp_path: Path) -> None:
    async with opened(tmp_path) as store:
        await store.append([SHARD, OTHER])
        used_bytes = (await store.stat()).used_bytes
        await together(store, deleting(SHARD), deleting(SHARD))
        assert (await store.stat()).used_bytes == used_bytes + 128


async def test_a_move_does_not_undo_what_was_done_just_before(tmp_path: Path) -> None:
    async with opened(tmp_path) as store:
        await store.append([SHARD, OTHER])
        places = store._catalog.find([SHARD.address.key, OTHER.address.key])
        moves = [
            Move(shard.address.key, place)
            for shard, place in zip([SHARD, OTHER], places, strict=True)
            if place is not None
        ]
        burying = WriteJob(moves=moves)
        await together(store, appending(SHARD), burying)
        assert [move.key for move in burying.moved] == [OTHER.address.key]
        await check(store, [SHARD], [OTHER])
    await check_twice(tmp_path, [SHARD], [OTHER])


async def test_a_group_leaves_the_reserve_alone(tmp_path: Path) -> None:
    """Each of its jobs would, by itself."""
    limits = StoreLimits(capacity_bytes=2 * MIB, reserve_bytes=MIB, volume_bytes=2 * MIB)
    shards = [make_shard(60 * KIB, seed) for seed in range(40)]
    async with opened(tmp_path, limits) as store:
        jobs = [appending(shard) for shard in shards]
        await together(store, *jobs)
        stored = [shard for shard, job in zip(shards, jobs, strict=True) if job.error is None]
        assert 10 < len(stored) < 20
        assert {type(job.error) for job in jobs if job.error} == {StorageFull}
        assert store._volumes.room_bytes() >= MIB - SUPERBLOCK_BYTES
        await check(store, stored, shards[len(stored) :])

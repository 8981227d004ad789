"""What one group commit does with jobs that have to do with each other."""

import asyncio
from collections.abc import Sequence
from pathlib import Path

import pytest

from common.errors import StorageFull
from common.record import HEADER_BYTES
from common.shards import ShardRecord
from common.units import GIB, KIB
from shardd.disk import DiskSpace, RealDisk
from shardd.group import Move, WriteJob
from shardd.store import StoreLimits, VolumeStore
from shardd.volume import VolumeClass
from tests.stores import make_shard
from tests.upkeep import held, opened, without_index

RESERVE_BYTES = 64 * KIB


class Crowded(RealDisk):
    """Says how much room it has."""

    free_bytes = 10 * GIB

    def space(self, path: Path) -> DiskSpace:
        return DiskSpace(10 * GIB, self.free_bytes)


def append(store: VolumeStore, shard: ShardRecord) -> WriteJob:
    return WriteJob(appends=[store._place(shard)])


def delete(shard: ShardRecord) -> WriteJob:
    return WriteJob(deletes=[shard.address])


async def together(store: VolumeStore, *jobs: WriteJob) -> list[type]:
    """What becomes of each, in one group."""
    answered: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def done(of: Sequence[WriteJob]) -> None:
        for job in of:
            job.release()
        answered.set_result(None)

    store.submit(jobs, done)
    await answered
    return [type(job.error) for job in jobs]


async def test_a_group_leaves_the_reserve_alone(tmp_path: Path) -> None:
    """Each of its jobs would fit, but not all: deletes and compaction live on the reserve."""
    disk, there = Crowded(), make_shard(2000)
    shards = [make_shard(1000, seed) for seed in range(4)]
    async with opened(tmp_path, StoreLimits(reserve_bytes=RESERVE_BYTES), disk) as store:
        await store.append([there])
        disk.free_bytes = RESERVE_BYTES + 2 * VolumeClass.SMALL.span(1000)
        before = store._volumes.used_bytes
        outcomes = await together(store, *(append(store, each) for each in shards), delete(there))
        assert outcomes == [type(None), type(None), StorageFull, StorageFull, type(None)]
        assert await held(store, [*shards, there]) == [True, True, False, False, False]
        grown = store._volumes.used_bytes - before
        assert grown == 2 * VolumeClass.SMALL.span(1000) + HEADER_BYTES


@pytest.mark.parametrize("size", [500, 70_000])
@pytest.mark.parametrize("was_there", [False, True])
@pytest.mark.parametrize("order", ["AD", "DA", "ADA", "DAD"])
async def test_jobs_of_one_group_take_place_in_their_order(
    tmp_path: Path, order: str, was_there: bool, size: int
) -> None:
    """Appends and deletes of one shard, and what is so after them, also by the volumes alone."""
    shard = make_shard(size)
    async with opened(tmp_path) as store:
        if was_there:
            await store.append([shard])
        jobs = [append(store, shard) if step == "A" else delete(shard) for step in order]
        assert set(await together(store, *jobs)) == {type(None)}
        assert await held(store, [shard]) == [order[-1] == "A"]
        assert (await store.stat()).shards == (order[-1] == "A")
    without_index(tmp_path)
    async with opened(tmp_path) as store:
        assert await held(store, [shard]) == [order[-1] == "A"]


async def test_a_delete_that_is_repeated_in_a_group_costs_nothing(tmp_path: Path) -> None:
    shard = make_shard(100)
    async with opened(tmp_path) as store:
        await store.append([shard])
        before = store._volumes.used_bytes
        await together(store, delete(shard), delete(shard), delete(shard))
        assert store._volumes.used_bytes == before + HEADER_BYTES


@pytest.mark.parametrize("order", ["append first", "condemned first"])
async def test_what_is_stored_anew_is_not_condemned_in_the_same_group(
    tmp_path: Path, order: str
) -> None:
    """The old record is rotten and shall go; the new one comes to another place, and stays."""
    shard = make_shard(100)
    async with opened(tmp_path) as store:
        await store.append([shard])
        key = shard.address.key
        (place,) = store._catalog.places([key])
        assert place is not None
        condemned = WriteJob(moves=[Move(key, place)])
        jobs = [append(store, shard), condemned]
        await together(store, *(jobs if order == "append first" else reversed(jobs)))
        assert len(condemned.moved) == (order == "condemned first")
        assert await held(store, [shard]) == [True]
    without_index(tmp_path)
    async with opened(tmp_path) as store:
        assert await held(store, [shard]) == [True]

"""The volume store on disks that are full, or nearly so."""

import asyncio
import errno
from pathlib import Path

import pytest

from common.errors import StorageFull, StoreReadOnly
from common.units import GIB, KIB, MIB
from shardd.store import StoreLimits
from shardd.volume import volume_name
from tests.disks.crowded import Crowded, scripted
from tests.disks.faulty import ENOSPC, Fails, Short
from tests.reopened import holds, opened
from tests.stores import make_shard


@pytest.mark.parametrize("size", [30, 100 * KIB])
@pytest.mark.parametrize("how", ["short", "error"])
async def test_a_full_disk_takes_back_what_was_half_written(
    tmp_path: Path, size: int, how: str
) -> None:
    recorded, before, after = Crowded(), make_shard(size, 1), make_shard(size, 3)
    async with scripted(tmp_path, recorded) as (disk, store):
        await store.append([before])
        path = tmp_path / "volumes" / volume_name(1)
        length = path.stat().st_size
        if how == "short":
            disk.script("pwritev", Short(5))
        else:
            disk.script("pwritev", ENOSPC)
        with pytest.raises(StorageFull):
            await store.append([make_shard(size, 2)])
        assert path.stat().st_size == length
        assert not (await store.stat()).read_only
        await store.append([after])
        assert await holds(store, before)
        assert await holds(store, after)
    async with opened(tmp_path) as store:
        assert [await holds(store, make_shard(size, seed)) for seed in (1, 2, 3)] == [
            True,
            False,
            True,
        ]


async def test_a_volume_that_cannot_be_begun_leaves_nothing(tmp_path: Path) -> None:
    recorded = Crowded()
    async with scripted(tmp_path, recorded) as (disk, store):
        disk.script("pwritev", ENOSPC)
        with pytest.raises(StorageFull):
            await store.append([make_shard(10)])
        assert list((tmp_path / "volumes").iterdir()) == []
        await store.append([make_shard(10)])
        assert await holds(store, make_shard(10))


async def test_the_reserve_is_for_deletes(tmp_path: Path) -> None:
    recorded, shard = Crowded(), make_shard(30)
    async with opened(tmp_path, StoreLimits(reserve_bytes=MIB), recorded) as store:
        await store.append([shard])
        writes = recorded.count(["pwritev"])
        recorded.space_left = MIB + 100
        with pytest.raises(StorageFull):
            await store.append([make_shard(31)])
        assert recorded.count(["pwritev"]) == writes  # refused before anything was written
        assert (await store.stat()).free_bytes == 100
        await store.delete([shard.address])
        assert not await holds(store, shard)
        recorded.space_left = 100
        assert (await store.stat()).free_bytes == 0
        recorded.space_left = 10 * GIB
        await store.append([shard])


async def test_the_capacity_is_kept(tmp_path: Path) -> None:
    limits = StoreLimits(capacity_bytes=MIB, reserve_bytes=64 * KIB)
    async with opened(tmp_path, limits=limits) as store:
        assert (await store.stat()).capacity_bytes == MIB
        stored = 0
        with pytest.raises(StorageFull):
            for seed in range(100):
                await store.append([make_shard(100 * KIB, seed)])
                stored += 1
        assert stored == 9
        stat = await store.stat()
        assert stat.used_bytes <= MIB - 64 * KIB
        assert (stat.shards, stat.read_only) == (9, False)


async def test_one_that_does_not_fit_does_not_keep_out_one_that_does(tmp_path: Path) -> None:
    limits = StoreLimits(capacity_bytes=MIB, reserve_bytes=0)
    async with opened(tmp_path, limits=limits) as store:
        outcomes = await asyncio.gather(
            store.append([make_shard(2 * MIB)]), store.append([make_shard(50)]),
            return_exceptions=True,
        )  # fmt: skip
        assert [type(outcome) for outcome in outcomes] == [StorageFull, type(None)]


async def test_a_disk_that_does_not_say_how_much_room_it_has_takes_nothing(tmp_path: Path) -> None:
    recorded = Crowded()
    async with scripted(tmp_path, recorded) as (disk, store):
        disk.script("space", Fails(errno.ENOENT))
        with pytest.raises(StoreReadOnly):
            await store.append([make_shard(10)])

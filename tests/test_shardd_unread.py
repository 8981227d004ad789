"""What the disk could not read at one start, and can at another: nothing acknowledged is lost
meanwhile, and nothing that was deleted comes back."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from common.shards import ShardRecord
from common.units import KIB
from shardd.disk import Disk
from tests.bad_sectors import BadSectors
from tests.disks.faulty import EIO, faulty
from tests.reopened import offsets, volume
from tests.stores import make_shard
from tests.upkeep import (
    FAST,
    SMALL_VOLUMES,
    addresses_of,
    bytes_on_disk,
    compact_all,
    held,
    opened,
    volume_files,
    without_index,
)

SHARDS = [make_shard(9 * KIB, seed) for seed in range(12)]
RARE = replace(SMALL_VOLUMES, upkeep=replace(FAST, compact_dead_part=0.5))


async def fill(path: Path, shards: Sequence[ShardRecord] = SHARDS) -> None:
    """The index is gone then."""
    async with opened(path) as store:
        for shard in shards:
            await store.append([shard])
    without_index(path)


def unread(path: Path, start: int, end: int) -> BadSectors:
    """A disk that cannot read this part of the file."""
    disk = BadSectors()
    disk.bad = {(path.name, at) for at in range(start & -4096, end, 4096)}
    return disk


def end_of(path: Path) -> int:
    return volume(path).stat().st_size


@pytest.mark.parametrize("is_tail", [True, False])
async def test_what_could_not_be_read_is_not_compacted_away(tmp_path: Path, is_tail: bool) -> None:
    """At several starts, with all that could be read deleted: and then the room comes back."""
    await fill(tmp_path)
    at = offsets(SHARDS)
    disk = unread(volume(tmp_path), at[6] + 9000, end_of(tmp_path) if is_tail else at[9] + 1)
    async with opened(tmp_path, disk=disk) as store:
        assert store.failure is None
        there = await held(store, SHARDS)
        assert there == [True] * 6 + [False] * 4 + [not is_tail] * 2
        dead = [shard for shard, is_there in zip(SHARDS, there, strict=True) if is_there]
        await store.delete(addresses_of(dead))
        await compact_all(store)
    async with opened(tmp_path, disk=disk) as store:
        assert not any(await held(store, SHARDS))
        await compact_all(store)
    async with opened(tmp_path) as store:
        assert await held(store, SHARDS) == [not is_there for is_there in there]
        await store.delete(addresses_of(SHARDS))
        await compact_all(store)
    assert bytes_on_disk(tmp_path) < 9 * KIB


async def test_behind_what_could_not_be_read_nothing_is_written(tmp_path: Path) -> None:
    await fill(tmp_path)
    at, size_bytes = offsets(SHARDS)[6], end_of(tmp_path)
    disk = unread(volume(tmp_path), at, at + 1)
    for seed in range(2):
        async with opened(tmp_path, disk=disk) as store:
            await store.append([make_shard(500, seed)])
    async with opened(tmp_path) as store:
        await store.append([make_shard(500, 3)])
        assert all(await held(store, [*SHARDS, *(make_shard(500, seed) for seed in (0, 1, 3))]))
    assert end_of(tmp_path) == size_bytes


async def deleted_while(path: Path, disk: Disk, bad: ShardRecord) -> None:
    """And the tombstones are compacted, too."""
    async with opened(path, disk=disk) as store:
        assert await held(store, [bad]) == [False]
        await store.delete([bad.address])
        assert bad.address not in [kept.address for kept in store.upkeep.quarantine.page(None, 10)]
        some = [make_shard(800, seed) for seed in range(20, 160)]
        await store.append(some)
        await store.delete(addresses_of(some))
        await compact_all(store)


@pytest.mark.parametrize("is_tail", [True, False])
@pytest.mark.parametrize("place", [0, 4096 + 128])
@pytest.mark.parametrize("keep_index", [True, False])
async def test_what_is_deleted_while_it_cannot_be_read_stays_so(
    tmp_path: Path, is_tail: bool, place: int, keep_index: bool
) -> None:
    """Whether its header is known or nothing of it."""
    await fill(tmp_path)
    bad = SHARDS[-1 if is_tail else 5]
    at = offsets(SHARDS)[SHARDS.index(bad)] + place
    disk = unread(volume(tmp_path), at, at + 1)
    await deleted_while(tmp_path, disk, bad)
    if not keep_index:
        without_index(tmp_path)
    async with opened(tmp_path) as store:
        assert await held(store, [bad]) == [False]


async def test_what_is_dropped_while_it_cannot_be_read_stays_so(tmp_path: Path) -> None:
    await fill(tmp_path)
    at = offsets(SHARDS)[1] + 4096 + 128
    disk = unread(volume(tmp_path), at, at + 1)
    async with opened(tmp_path, disk=disk) as store:
        assert store.upkeep.quarantine.bad_shards == 1
        await store.upkeep.quarantine.drop(SHARDS[1].address)
        assert store.upkeep.quarantine.bad_shards == 0
    without_index(tmp_path)
    async with opened(tmp_path) as store:
        assert (await held(store, SHARDS))[:3] == [True, False, True]


async def test_a_tombstone_stays_over_what_could_not_be_read(tmp_path: Path) -> None:
    dead, small = make_shard(70 * KIB, 1), [make_shard(900, seed) for seed in range(50, 150)]
    async with opened(tmp_path) as store:
        for seed in range(1, 4):
            await store.append([make_shard(70 * KIB, seed)])
        await store.append(small)
        await store.delete([dead.address])
    without_index(tmp_path)
    large = next(file for file in volume_files(tmp_path) if file.stat().st_size > 70 * KIB)
    async with opened(tmp_path, RARE, unread(large, 8192, 8193)) as store:
        assert store.failure is None
        await store.delete(addresses_of(small))
        assert await compact_all(store)
    without_index(tmp_path)
    async with opened(tmp_path) as store:
        assert await held(store, [dead]) == [False]


async def test_an_orphan_is_kept_while_its_tombstone_cannot_be_read(tmp_path: Path) -> None:
    orphan = make_shard(70 * KIB, 1)
    async with opened(tmp_path) as store:
        await store.append([make_shard(500, 2), orphan])
        assert await store.upkeep.quarantine.set_aside([orphan.address]) == 1
    without_index(tmp_path)
    small = next(file for file in volume_files(tmp_path) if file.stat().st_size < 70 * KIB)
    with faulty() as disk:
        for at in (1, 2):
            disk.script("open", EIO, at=at, file_name=small.name)
        async with opened(tmp_path, disk=disk) as store:
            assert store.failure is not None
    async with opened(tmp_path) as store:
        assert await held(store, [orphan]) == [False]
        assert [kept.address for kept in store.upkeep.quarantine.page(None, 10)] == [orphan.address]

"""Behind a rotten header nothing is certain: a volume with such a hole is never written again."""

from pathlib import Path

import pytest

from common.shards import ShardRecord
from common.units import KIB
from tests.reopened import volume
from tests.stores import make_shard
from tests.upkeep import addresses_of, compact_all, held, opened, without_index

KEPT, GONE, DELETED = make_shard(500, 1), make_shard(600, 2), make_shard(700, 3)
MANY = [make_shard(900, seed) for seed in range(100, 120)]


def rot_header(path: Path, shard: ShardRecord) -> None:
    """Of a record in the first volume."""
    data = bytearray(volume(path).read_bytes())
    data[data.find(shard.payload) - 128 + 20] ^= 1
    volume(path).write_bytes(data)


async def with_hole(path: Path) -> int:
    """The first volume has a hole, and what was begun after it is compacted away. Its size."""
    async with opened(path) as store:
        await store.append([DELETED])
        await store.delete([DELETED.address])
        for shards in ([KEPT], MANY, [GONE], [make_shard(500, 4)]):
            await store.append(shards)
    rot_header(path, GONE)
    without_index(path)
    async with opened(path) as store:
        assert await held(store, [KEPT, GONE]) == [True, False]
        some = [make_shard(800, seed) for seed in range(20, 40)]
        await store.append(some)
        await store.append([make_shard(70 * KIB, 77)])  # has the highest number from now on
        await store.delete(addresses_of(some))
        await compact_all(store)
        assert volume(path).exists() and not volume(path, 2).exists()
    return volume(path).stat().st_size


async def test_a_volume_with_a_hole_is_not_written_again_when_what_followed_it_is_gone(
    tmp_path: Path,
) -> None:
    size_bytes = await with_hole(tmp_path)
    async with opened(tmp_path) as store:
        await store.append([make_shard(900, 50)])
    assert volume(tmp_path).stat().st_size == size_bytes


async def test_what_is_deleted_then_stays_so(tmp_path: Path) -> None:
    await with_hole(tmp_path)
    async with opened(tmp_path) as store:
        await store.delete([KEPT.address])
    without_index(tmp_path)
    async with opened(tmp_path) as store:
        assert await held(store, [KEPT]) == [False]


async def test_what_is_acknowledged_then_is_found_again(tmp_path: Path) -> None:
    await with_hole(tmp_path)
    async with opened(tmp_path) as store:
        await store.append([DELETED])
    without_index(tmp_path)
    async with opened(tmp_path) as store:
        assert await held(store, [DELETED]) == [True]


async def test_a_rotten_superblock_of_what_followed_it_does_not_open_it_again(
    tmp_path: Path,
) -> None:
    async with opened(tmp_path) as store:
        for shards in (MANY, [GONE], [KEPT]):
            await store.append(shards)
    rot_header(tmp_path, GONE)
    without_index(tmp_path)
    async with opened(tmp_path) as store:
        await store.append([make_shard(800, 1)])
    data = bytearray(volume(tmp_path, 2).read_bytes())
    data[0] ^= 1
    volume(tmp_path, 2).write_bytes(data)
    size_bytes = volume(tmp_path).stat().st_size
    async with opened(tmp_path) as store:
        await store.append([make_shard(800, 2)])
    assert volume(tmp_path).stat().st_size == size_bytes


@pytest.mark.parametrize("byte", [-108, 10])
async def test_scrub_that_finds_a_hole_in_the_open_volume_ends_its_writing(
    tmp_path: Path, byte: int
) -> None:
    """And only a hole does: behind a rotten payload all is certain."""
    async with opened(tmp_path) as store:
        await store.append([*MANY, GONE])
    data = bytearray(volume(tmp_path).read_bytes())
    data[data.find(GONE.payload) + byte] ^= 1
    volume(tmp_path).write_bytes(data)
    async with opened(tmp_path) as store:
        store.upkeep.scrubber.start()
        while await store.scrub_once():
            pass
        assert store.upkeep.quarantine.bad_shards == 1
        await store.delete([MANY[0].address])
    assert (volume(tmp_path).stat().st_size == len(data)) is (byte < 0)
    without_index(tmp_path)
    async with opened(tmp_path) as store:
        assert await held(store, [MANY[0], MANY[1]]) == [False, True]

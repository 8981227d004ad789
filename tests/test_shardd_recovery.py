"""What a node finds when it starts again: torn tails, rot, an index that is gone or wrong."""

import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from common.ids import ShardAddress
from common.record import HEADER_BYTES
from common.units import KIB, MIB
from shardd.index import remove_index
from shardd.store import StoreLimits
from shardd.volume import SUPERBLOCK_BYTES, volume_name
from tests import upkeep
from tests.disks.recording import RecordingDisk
from tests.reopened import fill, offsets, opened, present, volume
from tests.stores import make_shard


async def test_everything_is_there_after_a_restart(tmp_path: Path) -> None:
    shards = [make_shard(size) for size in (0, 1, 5000, 64 * KIB, MIB)]
    await fill(tmp_path, shards)
    async with opened(tmp_path) as store:
        assert all(await present(store, shards))
        assert (await store.stat()).shards == len(shards)


@pytest.mark.parametrize("keep_index", [True, False])
async def test_a_torn_small_tail_is_cut_at_every_byte(tmp_path: Path, keep_index: bool) -> None:
    """The index knows the first two records, as after a crash; or nothing."""
    shards = [make_shard(20, seed) for seed in range(3)]
    await fill(tmp_path, shards[:2])
    shutil.copytree(tmp_path, tmp_path / "before", ignore=shutil.ignore_patterns("before"))
    await fill(tmp_path, shards[2:])
    whole = volume(tmp_path).read_bytes()
    *_, last, end = offsets(shards)
    for size in range(last, end + 1):
        path = tmp_path / f"cut{size}"
        shutil.copytree(tmp_path / "before", path)
        volume(path).write_bytes(whole[:size])
        if not keep_index:
            remove_index(path / "index.db")
        complete = size >= last + HEADER_BYTES + 20
        async with opened(path) as store:
            assert await present(store, shards) == [True, True, complete]
            assert volume(path).stat().st_size == (end if complete else last)
            await store.append([shards[2]])
            assert all(await present(store, shards))
        shutil.rmtree(path)


async def test_a_torn_large_tail_is_cut(tmp_path: Path) -> None:
    shards = [make_shard(100 * KIB, seed) for seed in range(3)]
    await fill(tmp_path, shards)
    whole = volume(tmp_path).read_bytes()
    *_, last, end = offsets(shards)
    payload_end = last + HEADER_BYTES + 100 * KIB
    for size in [*range(last, payload_end, 9973), payload_end - 1, payload_end, end - 1, end]:
        remove_index(tmp_path / "index.db")
        volume(tmp_path).write_bytes(whole[:size])
        complete = size >= payload_end
        async with opened(tmp_path) as store:
            assert await present(store, shards) == [True, True, complete]
            assert volume(tmp_path).stat().st_size == (end if complete else last)


async def test_a_tail_of_zeros_or_noise_is_cut(tmp_path: Path) -> None:
    """What a filesystem may leave where a write was not finished."""
    shards = [make_shard(50, seed) for seed in range(3)]
    await fill(tmp_path, shards)
    end = offsets(shards)[-1]
    for noise in (bytes(10_000), b"6REC" * 3000, bytes(range(256)) * 40):
        with volume(tmp_path).open("ab") as file:
            file.write(noise)
        async with opened(tmp_path) as store:
            assert all(await present(store, shards))
            assert volume(tmp_path).stat().st_size == end


async def test_tombstones_hold_after_a_rebuild_of_the_index(tmp_path: Path) -> None:
    small, large, back = make_shard(30, 1), make_shard(100 * KIB, 2), make_shard(100 * KIB, 3)
    async with opened(tmp_path) as store:
        await store.append([small, large, back])
        await store.delete([small.address, large.address, back.address])
        await store.append([back])
    remove_index(tmp_path / "index.db")
    async with opened(tmp_path) as store:
        assert await present(store, [small, large, back]) == [False, False, True]
        assert [info.address async for info in store.list()] == [back.address]


async def test_a_stale_index_is_completed(tmp_path: Path) -> None:
    old, new, gone = make_shard(30, 1), make_shard(30, 2), make_shard(100 * KIB, 3)
    await fill(tmp_path, [old, gone])
    index = (tmp_path / "index.db").read_bytes()
    async with opened(tmp_path) as store:
        await store.append([new])
        await store.delete([gone.address])
    remove_index(tmp_path / "index.db")
    (tmp_path / "index.db").write_bytes(index)
    async with opened(tmp_path) as store:
        assert await present(store, [old, new, gone]) == [True, True, False]
        assert (await store.stat()).shards == 2


@pytest.mark.parametrize("garbage", [b"", b"garbage" * 5000, b"SQLite format 3\0" + bytes(9000)])
async def test_an_index_of_garbage_is_rebuilt(tmp_path: Path, garbage: bytes) -> None:
    shards = [make_shard(size) for size in (30, 100 * KIB)]
    await fill(tmp_path, shards)
    (tmp_path / "index.db").write_bytes(garbage)
    async with opened(tmp_path) as store:
        assert all(await present(store, shards))
        assert (await store.stat()).shards == 2


async def test_an_index_with_rotten_pages_is_rebuilt(tmp_path: Path) -> None:
    shards = [make_shard(30, seed) for seed in range(500)]
    await fill(tmp_path, shards)
    data = bytearray((tmp_path / "index.db").read_bytes())
    data[4096:] = b"\xa5" * (len(data) - 4096)
    (tmp_path / "index.db").write_bytes(data)
    async with opened(tmp_path) as store:
        assert all(await present(store, shards))


async def test_an_index_that_was_changed_while_the_node_was_down_is_rebuilt(tmp_path: Path) -> None:
    """Well-formed as it may be: here a shard would be hidden."""
    shards = [make_shard(30, seed) for seed in range(3)]
    await fill(tmp_path, shards)
    with closing(sqlite3.connect(tmp_path / "index.db")) as database, database:
        database.execute("UPDATE record SET live = 0 WHERE offset > 4096")
    async with opened(tmp_path) as store:
        assert all(await present(store, shards))
        assert not (tmp_path / "index.db-sum").exists()  # while it may change


async def test_an_index_that_knows_more_than_the_volumes_is_rebuilt(tmp_path: Path) -> None:
    """A volume was lost: its rows must not be believed."""
    small, large = make_shard(30), make_shard(100 * KIB)
    await fill(tmp_path, [small], [large])
    volume(tmp_path, 2).unlink()
    async with opened(tmp_path) as store:
        assert await present(store, [small, large]) == [True, False]
        assert (await store.stat()).shards == 1


@pytest.mark.parametrize("size", [30, 100 * KIB])
async def test_an_index_that_knows_more_of_a_volume_than_there_is_is_rebuilt(
    tmp_path: Path, size: int
) -> None:
    """It would point behind the end, and what is appended next would come to a wrong place."""
    shards = [make_shard(size, seed) for seed in range(4)]
    await fill(tmp_path, shards[:3])
    with volume(tmp_path).open("r+b") as file:
        file.truncate(offsets(shards)[2])
    async with opened(tmp_path) as store:
        assert await present(store, shards) == [True, True, False, False]
        await store.append(shards[3:])
    remove_index(tmp_path / "index.db")
    async with opened(tmp_path) as store:
        assert await present(store, shards) == [True, True, False, True]
        assert volume(tmp_path).stat().st_size == offsets(shards)[3]


async def test_sequence_numbers_go_on_above_the_highest(tmp_path: Path) -> None:
    first, second = make_shard(30, 1), make_shard(30, 2)
    async with opened(tmp_path) as store:
        await store.append([first])
        await store.delete([first.address])
        await store.append([first])
    for keep_index in (True, False):
        if not keep_index:
            remove_index(tmp_path / "index.db")
        async with opened(tmp_path) as store:
            await store.delete([first.address])
            assert await present(store, [first]) == [False]
            await store.append([first, second])
    remove_index(tmp_path / "index.db")
    async with opened(tmp_path) as store:
        assert all(await present(store, [first, second]))


async def test_a_volume_torn_at_creation_is_removed(tmp_path: Path) -> None:
    await fill(tmp_path, [make_shard(30)])
    for number, torn in ((2, b""), (3, b"6VOL" + bytes(100)), (4, bytes(SUPERBLOCK_BYTES))):
        volume(tmp_path, number).write_bytes(torn)
    async with opened(tmp_path) as store:
        assert await present(store, [make_shard(30)]) == [True]
        assert [path.name for path in volume(tmp_path).parent.iterdir()] == [volume_name(1)]


async def test_rolled_volumes_are_all_read(tmp_path: Path) -> None:
    limits = StoreLimits(volume_bytes=256 * KIB)
    shards = [make_shard(size, seed) for seed in range(12) for size in (60_000, 100 * KIB)]
    async with opened(tmp_path, limits) as store:
        for shard in shards:
            await store.append([shard])
    assert len(list((tmp_path / "volumes").iterdir())) >= 8
    for path in (tmp_path / "volumes").iterdir():
        assert path.stat().st_size <= 256 * KIB
    remove_index(tmp_path / "index.db")
    async with opened(tmp_path, limits) as store:
        assert all(await present(store, shards))


async def test_recovery_reads_only_what_is_new(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    await fill(tmp_path, [make_shard(30, 1)])
    caplog.set_level("INFO", "shardd.recovery")
    await fill(tmp_path, [make_shard(30, 2)])
    assert caplog.messages == []


@pytest.mark.parametrize("killed", [True, False])
async def test_after_a_kill_every_volume_is_synced(tmp_path: Path, killed: bool) -> None:
    """Also if the index knows all of it: its end may have been cut, and not durably."""
    disk = RecordingDisk()
    async with upkeep.opened(tmp_path / "data") as store:
        await store.append([make_shard(30)])
        await store.stat()  # which writes the index
        upkeep.snapshot(tmp_path / "data", tmp_path / "killed")
    async with upkeep.opened(tmp_path / ("killed" if killed else "data"), disk=disk):
        synced = f"fdatasync {volume_name(1)}" in disk.changes()
    assert synced is killed


def test_addresses_in_these_tests_differ() -> None:
    addresses: set[ShardAddress] = {make_shard(30, seed).address for seed in range(10)}
    assert len(addresses) == 10

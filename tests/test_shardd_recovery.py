"""What a node finds when it starts again: torn tails, rot, an index that is gone or wrong."""

import shutil
import sqlite3
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, closing
from pathlib import Path

import pytest

from common.ids import ShardAddress
from common.record import HEADER_BYTES, shard_header, tombstone_header
from common.shards import ShardRecord
from common.units import KIB, MIB
from shardd.disk import Disk
from shardd.identity import DataDirectory
from shardd.index import remove_index
from shardd.store import StoreLimits, VolumeStore
from shardd.volume import SUPERBLOCK_BYTES, VolumeClass, volume_name
from tests.bad_sectors import BadSectors
from tests.stores import make_shard


@asynccontextmanager
async def opened(
    path: Path, limits: StoreLimits | None = None, disk: Disk | None = None
) -> AsyncIterator[VolumeStore]:
    directory = DataDirectory(path)
    try:
        store = await VolumeStore.open(directory, limits, disk)
        try:
            yield store
        finally:
            await store.close()
    finally:
        directory.close()


async def fill(path: Path, *calls: Sequence[ShardRecord]) -> None:
    async with opened(path) as store:
        for records in calls:
            await store.append(records)


async def present(store: VolumeStore, shards: Sequence[ShardRecord]) -> list[bool]:
    """For each, whether it is there; what is there must be right."""
    found = await store.read([shard.address for shard in shards])
    for shard, got in zip(shards, found, strict=True):
        assert not isinstance(got, ShardRecord) or bytes(got.payload) == shard.payload
    return [isinstance(got, ShardRecord) for got in found]


def volume(path: Path, number: int = 1) -> Path:
    return path / "volumes" / volume_name(number)


def offsets(shards: Sequence[ShardRecord]) -> list[int]:
    """Where each record of a volume starts, and where the last one ends."""
    at = [SUPERBLOCK_BYTES]
    for shard in shards:
        size = len(shard.payload)
        at.append(at[-1] + VolumeClass.of(size).span(size))
    return at


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


@pytest.mark.parametrize("size", [30, 100 * KIB])
@pytest.mark.parametrize("part", ["header", "payload", "both"])
async def test_one_rotten_record_hides_no_other(tmp_path: Path, size: int, part: str) -> None:
    shards = [make_shard(size, seed) for seed in range(5)]
    await fill(tmp_path, shards)
    remove_index(tmp_path / "index.db")
    data = bytearray(volume(tmp_path).read_bytes())
    bad = offsets(shards)[2]
    if part != "payload":
        data[bad + 20] ^= 1
    if part != "header":
        data[bad + HEADER_BYTES + 7] ^= 1
    volume(tmp_path).write_bytes(data)
    async with opened(tmp_path) as store:
        assert await present(store, shards) == [True, True, False, True, True]
        assert volume(tmp_path).stat().st_size == len(data)
        await store.append([shards[2]])
        assert all(await present(store, shards))


async def test_a_header_that_states_an_absurd_size_is_no_header(tmp_path: Path) -> None:
    shards = [make_shard(30, seed) for seed in range(2)]
    await fill(tmp_path, shards[:1])
    remove_index(tmp_path / "index.db")
    info = make_shard(17 * MIB).info
    with volume(tmp_path).open("ab") as file:
        file.write(shard_header(info, 9) + shard_header(shards[1].info, 10))
        file.write(bytes(shards[1].payload) + bytes(2))
    async with opened(tmp_path) as store:
        assert await present(store, shards) == [True, True]


async def test_a_copied_volume_inside_a_payload_buries_nothing(tmp_path: Path) -> None:
    """Someone stores a volume in the store, and the record that holds it rots or tears."""
    victim = make_shard(40, 1)
    copied = tombstone_header(victim.address, 1000)
    trap = make_shard(512, 2)
    await fill(tmp_path, [victim], [trap])
    data = bytearray(volume(tmp_path).read_bytes())
    at = offsets([victim])[1]
    data[at + HEADER_BYTES : at + HEADER_BYTES + len(copied)] = copied
    for damage in ("rotten header", "torn payload"):
        remove_index(tmp_path / "index.db")
        damaged = bytearray(data)
        if damage == "rotten header":
            damaged[at] ^= 1
        else:
            del damaged[at + HEADER_BYTES + 256 :]
        volume(tmp_path).write_bytes(damaged)
        async with opened(tmp_path) as store:
            assert await present(store, [victim]) == [True]


@pytest.mark.parametrize("inside", ["nothing", "too long for the file", "over what follows"])
async def test_what_looks_like_a_record_inside_a_lost_one_hides_nothing(
    tmp_path: Path, inside: str
) -> None:
    """Someone stores a volume in the store, and the header of the record that holds it rots."""
    trap, victims = make_shard(512, 2), [make_shard(40, seed) for seed in range(3)]
    await fill(tmp_path, [trap], victims)
    remove_index(tmp_path / "index.db")
    data = bytearray(volume(tmp_path).read_bytes())
    at = offsets([])[0]
    data[at + 20] ^= 1
    copied = make_shard(10_000 if inside == "too long for the file" else 400)
    if inside != "nothing":
        place = at + HEADER_BYTES + 64
        data[place : place + HEADER_BYTES] = shard_header(copied.info, 9)
    volume(tmp_path).write_bytes(data)
    async with opened(tmp_path) as store:
        assert await present(store, victims) == [True] * 3
        assert await present(store, [trap, copied]) == [False] * 2


async def test_after_a_torn_write_with_a_hole_deletes_hold(tmp_path: Path) -> None:
    """A power loss kept the last record of a write but not the one before it, behind which no
    tombstone is believed: what is deleted later must not come back with the index gone."""
    shards = [make_shard(600, seed) for seed in range(4)]
    await fill(tmp_path, shards[:2], shards[2:])
    remove_index(tmp_path / "index.db")
    data = bytearray(volume(tmp_path).read_bytes())
    lost = offsets(shards)[2]
    data[lost : lost + 512] = bytes(512)
    volume(tmp_path).write_bytes(data)
    async with opened(tmp_path) as store:
        assert await present(store, shards) == [True, True, False, True]
    async with opened(tmp_path) as store:
        await store.delete([shards[0].address])
        await store.append([shards[2]])
    remove_index(tmp_path / "index.db")
    async with opened(tmp_path) as store:
        assert await present(store, shards) == [False, True, True, True]
        assert len(list((tmp_path / "volumes").iterdir())) == 2
    remove_index(tmp_path / "index.db")
    async with opened(tmp_path) as store:
        await store.append([make_shard(600, 9)])
        assert len(list((tmp_path / "volumes").iterdir())) == 2  # once is enough


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


async def test_a_rotten_superblock_hides_no_record(tmp_path: Path) -> None:
    shards = [make_shard(size, seed) for seed in range(3) for size in (30, 100 * KIB)]
    await fill(tmp_path, shards)
    remove_index(tmp_path / "index.db")
    for number in (1, 2):
        data = bytearray(volume(tmp_path, number).read_bytes())
        data[9] ^= 1
        volume(tmp_path, number).write_bytes(data)
    async with opened(tmp_path) as store:
        assert all(await present(store, shards))
        await store.append([make_shard(40)])
        assert volume(tmp_path, 3).exists()  # nothing more goes into the rotten ones


async def test_a_superblock_that_cannot_be_read_hides_no_record(tmp_path: Path) -> None:
    shards = [make_shard(size, seed) for seed in range(3) for size in (30, 100 * KIB)]
    await fill(tmp_path, shards)
    disk = BadSectors()
    disk.bad |= {(volume_name(number), 0) for number in (1, 2)}
    for _ in range(2):
        async with opened(tmp_path, disk=disk) as store:
            assert all(await present(store, shards))
        remove_index(tmp_path / "index.db")


async def test_a_stray_copy_in_a_volume_of_the_other_class_is_passed_over(tmp_path: Path) -> None:
    """It could not be read from there, and must not win over the record itself."""
    small, large = make_shard(300), make_shard(100 * KIB)
    await fill(tmp_path, [small], [large])
    remove_index(tmp_path / "index.db")
    record = shard_header(small.info, 1) + small.payload
    with volume(tmp_path, 2).open("ab") as file:
        file.write(record + bytes(4096 - len(record)))
    async with opened(tmp_path) as store:
        assert await present(store, [small, large]) == [True, True]


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


def test_addresses_in_these_tests_differ() -> None:
    addresses: set[ShardAddress] = {make_shard(30, seed).address for seed in range(10)}
    assert len(addresses) == 10

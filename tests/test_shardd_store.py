"""The volume store on disks that fail and lie."""

import asyncio
import errno
from pathlib import Path

import pytest

from common.errors import BadRequest, Corrupt, StoreReadOnly, Unavailable
from common.framing import LARGE_PAYLOAD_BYTES
from common.units import KIB, MIB
from shardd.buffers import AlignedBuffer
from shardd.identity import DataDirectory
from shardd.store import StoreLimits, VolumeStore
from shardd.volume import SUPERBLOCK_BYTES, volume_name
from tests.disks.crowded import Crowded, scripted
from tests.disks.faulty import EIO, ENOSPC, Fails
from tests.reopened import holds, opened
from tests.stores import make_shard


@pytest.mark.parametrize("size", [30, 100 * KIB])
@pytest.mark.parametrize("call", ["fdatasync", "pwritev"])
async def test_an_io_error_makes_the_store_read_only(tmp_path: Path, call: str, size: int) -> None:
    recorded, before = Crowded(), make_shard(size, 1)
    async with scripted(tmp_path, recorded) as (disk, store):
        await store.append([before])
        disk.script(call, EIO)
        with pytest.raises(StoreReadOnly):
            await store.append([make_shard(size, 2)])
        syncs = recorded.count(["fdatasync"])
        with pytest.raises(StoreReadOnly):
            await store.append([make_shard(size, 3)])
        with pytest.raises(StoreReadOnly):
            await store.delete([before.address])
        assert recorded.count(["fdatasync"]) == syncs  # never tried again
        assert (await store.stat()).read_only
        assert store.failure is not None
        assert "Input/output" in store.failure
        assert await holds(store, before)
        assert not await holds(store, make_shard(size, 2))
    async with opened(tmp_path) as store:  # acknowledged ones are there, and it writes again
        assert await holds(store, before)
        await store.append([make_shard(size, 4)])


async def test_a_failed_sync_fails_the_whole_group(tmp_path: Path) -> None:
    recorded = Crowded()
    async with scripted(tmp_path, recorded) as (disk, store):
        await store.append([make_shard(10, 0)])
        disk.script("fdatasync", EIO)
        calls = [store.append([make_shard(10, seed)]) for seed in range(1, 50)]
        outcomes = await asyncio.gather(*calls, return_exceptions=True)
        assert {type(outcome) for outcome in outcomes} == {StoreReadOnly}
        assert (await store.stat()).shards == 1


async def test_a_cut_that_fails_is_final(tmp_path: Path) -> None:
    recorded = Crowded()
    async with scripted(tmp_path, recorded) as (disk, store):
        await store.append([make_shard(10, 1)])
        disk.script("pwritev", ENOSPC)
        disk.script("truncate", EIO)
        with pytest.raises(StoreReadOnly):
            await store.append([make_shard(10, 2)])
        assert (await store.stat()).read_only


async def test_who_waits_together_is_synced_together(tmp_path: Path) -> None:
    recorded = Crowded()
    async with opened(tmp_path, disk=recorded) as store:
        await store.append([make_shard(10, 0)])
        before = recorded.count(["fdatasync"])
        await asyncio.gather(*(store.append([make_shard(10, seed)]) for seed in range(1, 501)))
        assert recorded.count(["fdatasync"]) - before <= 50
        assert (await store.stat()).shards == 501


async def test_a_repeated_delete_writes_nothing(tmp_path: Path) -> None:
    recorded, shard = Crowded(), make_shard(10)
    async with opened(tmp_path, disk=recorded) as store:
        await store.append([shard])
        await store.delete([shard.address])
        writes = recorded.count(["pwritev"])
        await store.delete([shard.address])
        await store.delete([make_shard(11).address])
        assert recorded.count(["pwritev"]) == writes


async def test_a_record_that_is_another_is_not_served(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    shards = [make_shard(size, seed) for size in (300, 100 * KIB) for seed in (1, 2)]
    async with opened(tmp_path) as store:
        await store.append(shards)
        for number, size in ((1, 432), (2, 100 * KIB + 4096)):  # swap the two records
            path = tmp_path / "volumes" / volume_name(number)
            data = path.read_bytes()
            one, two = data[4096 : 4096 + size], data[4096 + size : 4096 + 2 * size]
            with path.open("r+b") as file:
                file.write(data[:SUPERBLOCK_BYTES] + two + one)
        for shard in shards:
            with pytest.raises(Corrupt, match="is not where it should be"):
                await store.read([shard.address])
        assert sum("bad record" in message for message in caplog.messages) == 4


async def test_a_flipped_header_is_not_served(tmp_path: Path) -> None:
    shard = make_shard(300)
    async with opened(tmp_path) as store:
        await store.append([shard])
        path = tmp_path / "volumes" / volume_name(1)
        with path.open("r+b") as file:
            file.seek(SUPERBLOCK_BYTES + 7)  # k
            file.write(b"\x05")
        with pytest.raises(Corrupt, match="is not where it should be"):
            await store.read([shard.address])


@pytest.mark.parametrize("size", [30, 100 * KIB])
async def test_a_disk_that_cannot_read_is_an_error_and_not_an_absence(
    tmp_path: Path, size: int
) -> None:
    recorded, shard = Crowded(), make_shard(size)
    async with scripted(tmp_path, recorded) as (disk, store):
        await store.append([shard])
        disk.script("preadv", EIO)
        if size < LARGE_PAYLOAD_BYTES:  # large ones are never in the page cache
            disk.script("preadv_nowait", EIO)
        with pytest.raises(Corrupt, match="cannot be read"):
            await store.read([shard.address])
        assert await holds(store, shard)


async def test_a_read_that_would_wait_goes_to_a_thread(tmp_path: Path) -> None:
    recorded, shard = Crowded(), make_shard(3000)
    async with scripted(tmp_path, recorded) as (disk, store):
        await store.append([shard])
        assert await holds(store, shard)
        before = recorded.count(["preadv"])
        disk.script("preadv_nowait", Fails(errno.EAGAIN))
        assert await holds(store, shard)
        assert recorded.count(["preadv"]) == before + 1


async def test_sizes_that_no_shard_has_are_refused(tmp_path: Path) -> None:
    shard = make_shard(17 * MIB)
    async with opened(tmp_path) as store:
        with pytest.raises(BadRequest):
            await store.append([shard])


@pytest.mark.parametrize(("k", "n"), [(0, 9), (0, 0), (10, 9)])
async def test_shards_of_no_code_are_refused(tmp_path: Path, k: int, n: int) -> None:
    """Their line in a listing would be refused, and with it the rest of the node's."""
    async with opened(tmp_path) as store:
        with pytest.raises(BadRequest, match="no such shard of a code"):
            await store.append([make_shard(100, k=k, n=n)])
        await store.append([make_shard(100, k=1, n=1)])


async def test_after_closing_nothing_is_taken(tmp_path: Path) -> None:
    directory = DataDirectory(tmp_path)
    store = await VolumeStore.open(directory)
    waiting = [asyncio.ensure_future(store.append([make_shard(10, seed)])) for seed in range(20)]
    await asyncio.sleep(0)
    await store.close()
    assert await asyncio.gather(*waiting) == [None] * 20  # what was taken is finished
    for size in (10, 100 * KIB):
        with pytest.raises(Unavailable):
            await store.append([make_shard(size, 99)])
    assert store.write_buffers.lent_bytes == 0
    directory.close()


async def test_a_caller_who_leaves_does_not_harm_the_rest(tmp_path: Path) -> None:
    async with opened(tmp_path) as store:
        calls = [asyncio.ensure_future(store.append([make_shard(100 * KIB, s)])) for s in range(9)]
        await asyncio.sleep(0)
        for call in calls[::2]:
            call.cancel()
        await asyncio.gather(*calls, return_exceptions=True)
        for seed in range(1, 9, 2):
            assert await holds(store, make_shard(100 * KIB, seed))
        await store.append([make_shard(100 * KIB, 99)])
        assert store.write_buffers.lent_bytes == 0


async def test_cancelled_large_reads_give_their_buffers_back(tmp_path: Path) -> None:
    shards = [make_shard(100 * KIB, seed) for seed in range(4)]
    limits = StoreLimits(read_buffer_bytes=256 * KIB)
    async with opened(tmp_path, limits=limits) as store:
        await store.append(shards)
        for _ in range(5):
            reads = [asyncio.ensure_future(store.read([shard.address])) for shard in shards]
            await asyncio.sleep(0)
            for read in reads:
                read.cancel()
            await asyncio.gather(*reads, return_exceptions=True)
        for shard in shards:
            assert await holds(store, shard)


async def test_a_call_larger_than_the_pool_is_served(tmp_path: Path) -> None:
    shards = [make_shard(100 * KIB, seed) for seed in range(8)]
    async with opened(tmp_path, limits=StoreLimits(write_buffer_bytes=128 * KIB)) as store:
        await asyncio.gather(store.append(shards[:4]), store.append(shards[4:]))
        for shard in shards:
            assert await holds(store, shard)


async def test_a_call_for_which_memory_does_not_suffice_keeps_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_memory(*_: object) -> None:
        raise OSError(errno.ENOMEM, "planned")

    shards = [make_shard(100 * KIB, seed) for seed in range(2)]
    async with opened(tmp_path) as store:
        await store.append(shards[:1])
        monkeypatch.setattr(AlignedBuffer, "__init__", no_memory)  # but for the one that is idle
        with pytest.raises(Unavailable):
            await store.append(shards)
        assert store.write_buffers.lent_bytes == 0
        with pytest.raises(Unavailable):
            await store.read([shards[0].address])
        monkeypatch.undo()
        await store.append(shards)
        assert [await holds(store, shard) for shard in shards] == [True, True]

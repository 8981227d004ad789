"""What a reader has in hand is not taken from under it, neither the file nor the buffer; and what
it is given is what it asked for, and whole."""

import asyncio
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from common.errors import Corrupt
from common.record import shard_header, tombstone_header
from common.shards import ShardRecord
from common.units import KIB
from shardd.disk import RealDisk
from shardd.store import StoreLimits
from shardd.volume import (
    SUPERBLOCK_BYTES,
    Superblock,
    Volume,
    VolumeClass,
    VolumeGone,
    volume_name,
)
from tests.stores import make_shard
from tests.upkeep import append_all, opened

SOON_S = 30


class SlowDisk(RealDisk):
    """Once `slow`, a read waits in the kernel until it may `go`."""

    def __init__(self) -> None:
        self.slow = False
        self.reading, self.go = threading.Event(), threading.Event()
        self.closed: list[int] = []

    def preadv(self, fd: int, buffers: Sequence[bytearray | memoryview], offset: int) -> int:
        if self.slow:
            self.reading.set()
            assert self.go.wait(SOON_S)
        return super().preadv(fd, buffers, offset)

    def close(self, fd: int) -> None:
        self.closed.append(fd)
        super().close(fd)


@pytest.fixture
def disk() -> Iterator[SlowDisk]:
    slow = SlowDisk()
    yield slow
    slow.go.set()  # or a test that fails would leave a thread behind


@pytest.fixture
def volume(tmp_path: Path, disk: SlowDisk) -> Volume:
    made = Volume.create(disk, tmp_path, Superblock(VolumeClass.SMALL, bytes(16), bytes(16), 1))
    disk.closed.clear()
    return made


def test_a_volume_that_goes_is_closed_after_its_last_reader(disk: SlowDisk, volume: Volume) -> None:
    """Closed under a reader, its descriptor might be another file's when the kernel looks at it."""
    disk.slow = True
    with ThreadPoolExecutor(2) as threads:
        readers = [threads.submit(volume.read, bytearray(SUPERBLOCK_BYTES), 0) for _ in range(2)]
        assert disk.reading.wait(SOON_S)
        while volume._readers < 2:
            pass
        volume.retire()
        try:
            assert disk.closed == []
            with pytest.raises(VolumeGone):
                volume.read(bytearray(1), 0)
            with pytest.raises(VolumeGone):
                volume.read_nowait(bytearray(1), 0)
            assert disk.closed == []
        finally:
            disk.go.set()
        assert [each.result() for each in readers] == 2 * [SUPERBLOCK_BYTES]
    assert disk.closed == [volume._read_fd]


def test_a_volume_that_nobody_reads_is_closed_at_once(disk: SlowDisk, volume: Volume) -> None:
    volume.retire()
    assert disk.closed == [volume._read_fd]
    with pytest.raises(VolumeGone):
        volume.read(bytearray(1), 0)


async def test_a_buffer_comes_back_after_the_read_into_it(tmp_path: Path, disk: SlowDisk) -> None:
    """Whoever wanted the shard is gone, but the kernel still writes to that memory: lent to another
    reader, it would be overwritten."""
    one, other = [make_shard(300 * KIB, seed) for seed in range(2)]
    async with opened(tmp_path, StoreLimits(), disk) as store:
        await append_all(store, [one, other])
        pool = store._reader._buffers
        disk.slow = True
        reading = asyncio.create_task(store.read_raw(one.address.key))
        await asyncio.to_thread(disk.reading.wait, SOON_S)
        reading.cancel()
        with pytest.raises(asyncio.CancelledError):
            await reading
        disk.slow = False
        raw = await store.read_raw(other.address.key)
        assert raw is not None and pool.lent_bytes > len(raw.payload) + 300 * KIB
        disk.go.set()
        while pool.lent_bytes > len(raw.payload) + 300 * KIB:
            await asyncio.sleep(0.001)
        assert bytes(raw.payload) == other.payload
        raw.release()
        assert pool.lent_bytes == 0
        (found,) = await store.read([one.address])
        assert isinstance(found, ShardRecord) and found.payload == one.payload


class ShortReads(RealDisk):
    """Has only the beginning of what is asked for without waiting."""

    asked = 0

    def preadv_nowait(self, fd: int, buffers: Sequence[bytearray | memoryview], offset: int) -> int:
        self.asked += 1
        (buffer,) = buffers
        return self.preadv(fd, [memoryview(buffer)[: len(buffer) // 2]], offset)


async def test_half_of_a_record_in_the_page_cache_is_not_served(tmp_path: Path) -> None:
    disk, shard = ShortReads(), make_shard(30_000)
    async with opened(tmp_path, StoreLimits(), disk) as store:
        await store.append([shard])
        assert await store.read([shard.address]) == [shard]
        assert disk.asked


def of_another_generation(shard: ShardRecord) -> bytes:
    address = shard.address._replace(generation=shard.address.generation + 1)
    return shard_header(shard.info._replace(address=address), 1)


def deleted(shard: ShardRecord) -> bytes:
    return tombstone_header(shard.address, 1)


@pytest.mark.parametrize("other", [of_another_generation, deleted])
async def test_another_record_in_its_place_is_not_served(
    tmp_path: Path, other: Callable[[ShardRecord], bytes]
) -> None:
    """As alike as it can be: of no bytes, as a tombstone is."""
    shard = make_shard(0)
    async with opened(tmp_path) as store:
        await store.append([shard])
        with (tmp_path / "volumes" / volume_name(1)).open("r+b") as file:
            file.seek(SUPERBLOCK_BYTES)
            file.write(other(shard))
        with pytest.raises(Corrupt, match="is not where it should be"):
            await store.read([shard.address])

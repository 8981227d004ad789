"""Reads that something happens to meanwhile: nobody else's descriptor or buffer comes to harm."""

import asyncio
import os
import threading
from collections.abc import Sequence
from pathlib import Path

import pytest

from common.units import KIB
from shardd.disk import RealDisk
from shardd.reader import RawRecord
from shardd.volume import Superblock, Volume, VolumeClass, VolumeGone
from tests.stores import make_shard
from tests.upkeep import opened

SUPERBLOCK = Superblock(VolumeClass.SMALL, bytes(16), bytes(16), 1)


class SlowReads(RealDisk):
    """A read says that it has begun, and goes on when it is let go."""

    def __init__(self) -> None:
        self.begun, self.go = threading.Event(), threading.Event()

    def preadv(self, fd: int, buffers: Sequence[bytearray | memoryview], offset: int) -> int:
        self.begun.set()
        assert self.go.wait(60)
        return super().preadv(fd, buffers, offset)


def test_a_volume_that_retires_stays_open_for_those_who_read(tmp_path: Path) -> None:
    disk = SlowReads()
    volume = Volume.create(disk, tmp_path, SUPERBLOCK)
    place = bytearray(4096)
    reading = threading.Thread(target=volume.read, args=(place, 0))
    reading.start()
    assert disk.begun.wait(60)
    volume.retire()
    assert os.fstat(volume._read_fd).st_size == 4096
    with pytest.raises(VolumeGone):
        volume.read(bytearray(10), 0)
    disk.go.set()
    reading.join()
    assert bytes(place) == SUPERBLOCK.pack()
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(volume._read_fd)


async def test_a_read_that_is_given_up_keeps_its_buffer_as_long_as_it_lasts(tmp_path: Path) -> None:
    """A thread still reads into it: another's shard would be overwritten."""
    disk, shard = SlowReads(), make_shard(100 * KIB)
    disk.go.set()
    async with opened(tmp_path, disk=disk) as store:
        await store.append([shard])
        buffers = store._reader._buffers
        disk.begun.clear()
        disk.go.clear()
        given_up = asyncio.ensure_future(store.read_raw(shard.address.key))
        assert await asyncio.to_thread(disk.begun.wait, 60)
        given_up.cancel()
        with pytest.raises(asyncio.CancelledError):
            await given_up
        lent_bytes = buffers.lent_bytes
        disk.go.set()
        assert lent_bytes > 100 * KIB
        record = await store.read_raw(shard.address.key)
        assert isinstance(record, RawRecord)
        assert record.payload == shard.payload
        record.release()
        while buffers.lent_bytes:
            await asyncio.sleep(0.001)

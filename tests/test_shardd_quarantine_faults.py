"""Quarantine on a disk that fails: an orphan is in service or in quarantine, never gone."""

import asyncio
import threading
from pathlib import Path

import pytest

from common.errors import StoreReadOnly
from shardd.disk import RealDisk
from shardd.store import VolumeStore
from tests.disks.faulty import EIO, faulty
from tests.flips import flip_one, live_entries
from tests.upkeep import addresses_of, append_all, held, opened, shards_of, without_index

SHARDS, LATER = shards_of(range(3)), shards_of(range(3, 4))
ORPHANS = SHARDS[:1]


@pytest.mark.parametrize("method", ["fsync", "fsync_dir"])
async def test_a_file_that_cannot_be_synced_ends_writing(tmp_path: Path, method: str) -> None:
    with faulty() as disk:
        async with opened(tmp_path, disk=disk) as store:
            await store.append(SHARDS)
            disk.script(method, EIO)
            with pytest.raises(OSError):
                await store.upkeep.quarantine.set_aside(addresses_of(ORPHANS))
            assert store.failure is not None and "fsync failed" in store.failure
            assert await held(store, SHARDS) == [True] * 3
            with pytest.raises(StoreReadOnly):
                await store.append(SHARDS)


@pytest.mark.parametrize("keep_index", [True, False])
async def test_a_tombstone_that_may_be_on_the_disk_takes_no_file_with_it(
    tmp_path: Path, keep_index: bool
) -> None:
    with faulty() as disk:
        async with opened(tmp_path, disk=disk) as store:
            await store.append(SHARDS)
            disk.script("fdatasync", EIO)
            with pytest.raises(StoreReadOnly):
                await store.upkeep.quarantine.set_aside(addresses_of(ORPHANS))
            assert await held(store, SHARDS) == [True] * 3
    if not keep_index:
        without_index(tmp_path)
    async with opened(tmp_path) as store:
        assert await held(store, SHARDS) == [False, True, True]
        assert await store.upkeep.quarantine.restore(addresses_of(ORPHANS)) == 1
        assert await held(store, SHARDS) == [True] * 3


class Held(RealDisk):
    """fdatasync waits until it is `free`."""

    def __init__(self) -> None:
        self.free, self.reached = threading.Event(), threading.Event()
        self.free.set()

    def fdatasync(self, fd: int) -> None:
        if not self.free.is_set():
            self.reached.set()
            self.free.wait(60)
        super().fdatasync(fd)


async def test_a_stop_while_a_tombstone_is_written_takes_no_file_with_it(tmp_path: Path) -> None:
    disk = Held()
    async with opened(tmp_path, disk=disk) as store:
        await store.append(SHARDS)
        (entry, *_) = live_entries(store)
        flip_one(store, entry, 140)
        disk.free.clear()
        writing = asyncio.create_task(store.append(LATER))
        await asyncio.to_thread(disk.reached.wait, 60)  # so the tombstone will have to wait
        store.upkeep.scrubber.suspect(entry.key)
        scrub = asyncio.create_task(store.scrub_once())
        while not store.upkeep.quarantine.bad_shards:
            await asyncio.sleep(0.001)
        scrub.cancel()
        for _ in range(10):
            await asyncio.sleep(0)
        disk.free.set()
        with pytest.raises(asyncio.CancelledError):
            await scrub
        await writing
        assert store.upkeep.quarantine.bad_shards == 1
    async with opened(tmp_path) as store:
        assert await held(store, SHARDS) == [s.address.key != entry.key for s in SHARDS]
        (bad,) = store.upkeep.quarantine.page(None, 10)
        assert bad.address.key == entry.key


async def pass_over_all(store: VolumeStore) -> None:
    store.upkeep.scrubber.start()
    for _ in range(100):
        if not await store.scrub_once():
            return
    raise AssertionError("scrub does not come to an end")


async def test_what_rots_on_a_node_that_is_read_only_is_told_and_not_copied(tmp_path: Path) -> None:
    """Without a tombstone, every look at it found it anew: a copy more for each."""
    shards = shards_of(range(12))
    with faulty() as disk:
        async with opened(tmp_path, disk=disk) as store:
            await append_all(store, shards)
            rotten = [live_entries(store)[at] for at in (1, -1)]
            for entry in rotten:
                flip_one(store, entry, 130)
            disk.script("fdatasync", EIO)
            with pytest.raises(StoreReadOnly):
                await store.append(shards[:1])
            for _ in range(3):
                await pass_over_all(store)
            quarantine = store.upkeep.quarantine
            listed = {each.address for each in quarantine.page(None, 10)}
            assert listed == {entry.info.address for entry in rotten}
            assert quarantine.bad_shards == store.upkeep.scrub_report().rotten == 2
            assert not list((tmp_path / "quarantine").iterdir())
            await quarantine.drop(rotten[0].info.address)
            await pass_over_all(store)
            assert quarantine.bad_shards == 2
    async with opened(tmp_path) as store:
        await pass_over_all(store)
        assert len(list((tmp_path / "quarantine").iterdir())) == 2
        assert (await held(store, shards)).count(False) == 2


async def test_a_node_that_is_read_only_sets_nothing_aside(tmp_path: Path) -> None:
    with faulty() as disk:
        async with opened(tmp_path, disk=disk) as store:
            await store.append(SHARDS)
            disk.script("fdatasync", EIO)
            with pytest.raises(StoreReadOnly):
                await store.append(SHARDS[:1])
            for _ in range(3):
                with pytest.raises(StoreReadOnly, match="fsync failed"):
                    await store.upkeep.quarantine.set_aside(addresses_of(ORPHANS))
            assert not list((tmp_path / "quarantine").iterdir())
            assert await held(store, SHARDS) == [True] * 3

"""Quarantine on a disk that fails: an orphan is in service or in quarantine, never gone."""

from pathlib import Path

import pytest

from common.errors import StoreReadOnly
from shardd.store import VolumeStore
from shardd.verify import Examined
from tests.disks.faulty import EIO, faulty
from tests.flips import flip_one, live_entries
from tests.upkeep import addresses_of, append_all, held, opened, shards_of, without_index

SHARDS = shards_of(range(3))
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


async def test_what_cannot_be_restored_stays_in_quarantine(tmp_path: Path) -> None:
    with faulty() as disk:
        async with opened(tmp_path, disk=disk) as store:
            await store.append(SHARDS)
            assert await store.upkeep.quarantine.set_aside(addresses_of(ORPHANS)) == 1
            disk.script("fdatasync", EIO)
            with pytest.raises(StoreReadOnly):
                await store.upkeep.quarantine.restore(addresses_of(ORPHANS))
            assert len(store.upkeep.quarantine.page(None, 10)) == 1
            assert len(list((tmp_path / "quarantine").iterdir())) == 1


async def test_what_can_be_read_at_a_second_look_is_not_condemned(tmp_path: Path) -> None:
    async with opened(tmp_path) as store:
        await store.append(SHARDS)
        bad = [Examined(each, memoryview(b""), "planned") for each in live_entries(store)]
        await store.upkeep.quarantine.condemn(bad)
        assert store.upkeep.quarantine.bad_shards == 0
        assert await held(store, SHARDS) == [True] * 3


async def test_rot_of_what_came_after_a_delete_is_found_at_the_start(tmp_path: Path) -> None:
    """The tombstone before it does not make up for it."""
    async with opened(tmp_path) as store:
        await store.append(SHARDS)
        await store.delete(addresses_of(SHARDS[1:]))
        await store.append(SHARDS[1:])
        rotten = store._catalog.entries([SHARDS[1].address.key])[0]
        flip_one(store, rotten, 130)
    without_index(tmp_path)
    async with opened(tmp_path) as store:
        assert store.upkeep.quarantine.bad_shards == 1
        assert await held(store, SHARDS) == [True, False, True]


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

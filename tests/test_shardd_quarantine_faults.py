"""Quarantine on a disk that fails: an orphan is in service or in quarantine, never gone."""

from pathlib import Path

import pytest

from common.errors import StoreReadOnly
from tests.disks.faulty import EIO, faulty
from tests.upkeep import addresses_of, held, opened, shards_of, without_index

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

"""Quarantine: what rotted is out of service, is listed, and does not come back."""

from pathlib import Path

import pytest

from common.errors import StoreReadOnly
from common.failpoints import Point, armed
from common.units import KIB, MIB
from shardd.store import StoreLimits
from tests.disks.faulty import EIO, faulty
from tests.flips import flip_one, live_entries
from tests.stores import make_shard
from tests.upkeep import (
    append_all,
    check,
    crash_in,
    files_in_quarantine,
    held,
    kept,
    opened,
    shards_of,
    without_index,
)

SHARDS = shards_of(range(12))


async def test_rot_is_not_restored(tmp_path: Path) -> None:
    async with opened(tmp_path) as store:
        await store.append(SHARDS)
        entry = live_entries(store)[0]
        flip_one(store, entry, 129)
        while await store.scrub_once():
            pass
        assert kept(store) == [str(entry.info.address)]
        assert await store.upkeep.quarantine.restore([entry.info.address]) == 0
        assert store.upkeep.quarantine.bad_shards == 1


async def test_rot_on_a_full_disk_is_taken_out_of_service_all_the_same(tmp_path: Path) -> None:
    limits = StoreLimits(capacity_bytes=MIB, reserve_bytes=64 * KIB, volume_bytes=256 * KIB)
    shards = [make_shard(120 * KIB, seed) for seed in range(7)]
    async with opened(tmp_path, limits) as store:
        await append_all(store, shards)
        store._volumes._capacity_bytes = store._volumes.used_bytes + 4096
        flip_one(store, live_entries(store)[2], 1000)
        while await store.scrub_once():
            pass
        assert store.upkeep.quarantine.bad_shards == 1
        assert [file.stat().st_size for file in files_in_quarantine(tmp_path)] == [0]
        assert sum(await held(store, shards)) == 6


async def test_a_crash_while_rot_is_condemned_only_delays_it(tmp_path: Path) -> None:
    data, crash = tmp_path / "data", tmp_path / "crash"
    async with opened(data) as store:
        await store.append(SHARDS)
        rotten = live_entries(store)[0]
        flip_one(store, rotten, 129)
        with armed(Point.QUARANTINE_WRITTEN, crash_in(data, crash)):
            while await store.scrub_once():
                pass
    async with opened(crash) as store:
        assert files_in_quarantine(crash) == []
        store.upkeep.scrubber.start()
        while await store.scrub_once():
            pass
        assert kept(store) == [str(rotten.info.address)]


@pytest.mark.parametrize("later", ["nothing", "deleted", "appended"])
async def test_rot_that_recovery_finds_is_on_the_list(tmp_path: Path, later: str) -> None:
    async with opened(tmp_path) as store:
        await store.append(SHARDS)
        rotten = live_entries(store)[1]
        flip_one(store, rotten, 129)
        shard = next(s for s in SHARDS if s.address.key == rotten.key)
        if later == "deleted":
            await store.delete([shard.address])
        elif later == "appended":
            await store.append([shard])
    without_index(tmp_path)
    for _ in range(2):
        async with opened(tmp_path) as store:
            bad = [str(shard.address)] if later == "nothing" else []
            assert kept(store) == bad
            assert store.upkeep.quarantine.bad_shards == len(bad)
            assert await held(store, [shard]) == [later == "appended"]
            assert store.upkeep.scrub_report().running is bool(bad)


@pytest.mark.parametrize("method", ["pwritev", "fsync", "fsync_dir"])
async def test_rot_on_a_disk_that_takes_no_file_keeps_no_node_from_starting(
    tmp_path: Path, method: str
) -> None:
    """All that is good can be read, and what is bad is told."""
    async with opened(tmp_path) as store:
        await store.append(SHARDS)
        rotten = live_entries(store)[1]
        flip_one(store, rotten, 129)
    without_index(tmp_path)
    with faulty() as disk:
        disk.script(method, EIO, file_name="quarantine" if method == "fsync_dir" else "")
        async with opened(tmp_path, disk=disk) as store:
            assert kept(store) == [str(rotten.info.address)]
            assert store.upkeep.quarantine.bad_shards == 1
            assert sum(await held(store, SHARDS)) == len(SHARDS) - 1
            assert "set aside" in (await store.stat()).failure
            with pytest.raises(StoreReadOnly):
                await store.append(SHARDS[:1])
    without_index(tmp_path)
    async with opened(tmp_path) as store:
        assert kept(store) == [str(rotten.info.address)]
        await store.append(SHARDS)
        await check(store, SHARDS, [])
        assert kept(store) == []

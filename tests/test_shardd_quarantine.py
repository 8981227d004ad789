"""Quarantine: orphans are kept, can come back, and go in the end."""

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from common.errors import StorageFull
from common.failpoints import Point, armed
from common.shards import ShardRecord
from common.units import KIB, MIB
from common.upkeep import Quarantined
from shardd.group import Move, WriteJob
from shardd.quarantine_files import QuarantineFolder
from shardd.store import StoreLimits, VolumeStore
from shardd.upkeep import UpkeepLimits
from tests.flips import flip_one, live_entries
from tests.stores import make_shard
from tests.upkeep import (
    SMALL_VOLUMES,
    NodeTime,
    addresses_of,
    append_all,
    check,
    compact_all,
    crash_in,
    files_in_quarantine,
    held,
    kept,
    opened,
    shards_of,
    snapshot,
    without_index,
)

SHARDS = shards_of(range(12))
ORPHANS, REST = SHARDS[:5], SHARDS[5:]


async def set_aside(store: VolumeStore, shards: Sequence[ShardRecord] = ORPHANS) -> int:
    return await store.upkeep.quarantine.set_aside(addresses_of(shards))


async def test_orphans_leave_service_but_are_kept(tmp_path: Path) -> None:
    async with opened(tmp_path) as store:
        await store.append(SHARDS)
        used_bytes = (await store.stat()).used_bytes
        missing = [make_shard(77, 77)]
        assert await set_aside(store, ORPHANS + missing + ORPHANS) == len(ORPHANS)
        await check(store, REST, ORPHANS)
        assert kept(store) == [str(address) for address in sorted(addresses_of(ORPHANS))]
        assert store.upkeep.quarantine.bad_shards == 0
        grown = (await store.stat()).used_bytes - used_bytes
        tombstones = 128 * len(ORPHANS)
        assert grown - tombstones == sum(len(shard.payload) + 128 for shard in ORPHANS)
        assert await set_aside(store) == 0
        await compact_all(store)
    without_index(tmp_path)
    async with opened(tmp_path) as store:
        await check(store, REST, ORPHANS)
        assert len(kept(store)) == len(ORPHANS)


async def test_orphans_come_back_intact(tmp_path: Path) -> None:
    async with opened(tmp_path) as store:
        await store.append(SHARDS)
        await set_aside(store)
        await compact_all(store)
    async with opened(tmp_path) as store:
        quarantine = store.upkeep.quarantine
        assert await quarantine.restore(addresses_of([*ORPHANS[:3], REST[0]])) == 3
        await check(store, ORPHANS[:3] + REST, ORPHANS[3:])
        assert len(files_in_quarantine(tmp_path)) == 2
        await quarantine.drop(ORPHANS[3].address)
        await quarantine.drop(ORPHANS[3].address)
        assert kept(store) == [str(ORPHANS[4].address)]
    async with opened(tmp_path) as store:
        await check(store, ORPHANS[:3] + REST, ORPHANS[3:])


@pytest.mark.parametrize("orphan", ORPHANS[:2], ids=["large", "small"])
async def test_what_is_deleted_meanwhile_does_not_come_back(
    tmp_path: Path, orphan: ShardRecord
) -> None:
    """Whoever asked for it was paused: the content was deleted, collected, and deleted here."""
    async with opened(tmp_path) as store:
        await store.append(SHARDS)
        await set_aside(store)
        await store.delete([orphan.address, REST[0].address])
        assert str(orphan.address) not in kept(store)
        assert await store.upkeep.quarantine.restore([orphan.address]) == 0
        await check(store, REST[1:], [orphan, REST[0]])
    async with opened(tmp_path) as store:
        assert len(kept(store)) == len(files_in_quarantine(tmp_path)) == len(ORPHANS) - 1


async def test_what_is_deleted_while_it_comes_back_is_deleted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The delete is on its way to the writer when the order to restore goes on."""
    async with opened(tmp_path) as store:
        await store.append(SHARDS)
        await set_aside(store)
        quarantine, orphan = store.upkeep.quarantine, ORPHANS[0]
        read, loop = QuarantineFolder.read, asyncio.get_running_loop()
        deleting: list[asyncio.Task[None]] = []

        def delete() -> None:
            deleting.append(asyncio.create_task(store.delete([orphan.address])))

        def read_and_delete(self: QuarantineFolder, each: Quarantined) -> ShardRecord:
            found = read(self, each)
            loop.call_soon_threadsafe(delete)
            return found

        monkeypatch.setattr(QuarantineFolder, "read", read_and_delete)
        await quarantine.restore([orphan.address])
        await asyncio.gather(*deleting)
        assert await held(store, [orphan]) == [False]
        assert str(orphan.address) not in kept(store)


async def test_nothing_goes_once_deletes_are_stopped(tmp_path: Path) -> None:
    """They were allowed when it began to wait for others who change what is kept."""
    time = NodeTime(5000.0)
    limits = replace(SMALL_VOLUMES, upkeep=UpkeepLimits(quarantine_s=100))
    async with opened(tmp_path, limits, clocks=time.clocks) as store:
        await store.append(SHARDS)
        await set_aside(store)
        time.true_s += 1000
        allowed = [True]
        store.upkeep.may_drop = lambda: bool(allowed)
        async with store.upkeep.quarantine._changing:
            expiring = asyncio.create_task(store.upkeep._expire())
            await asyncio.sleep(0)
            allowed.clear()
        assert not await expiring
        assert len(kept(store)) == len(ORPHANS)


async def test_what_is_damaged_in_quarantine_does_not_come_back(tmp_path: Path) -> None:
    async with opened(tmp_path) as store:
        await store.append(SHARDS)
        await set_aside(store)
        for at, file in enumerate(files_in_quarantine(tmp_path)):
            data = bytearray(file.read_bytes())
            data[-1 - at] ^= 1
            file.write_bytes(data if at else b"")
        assert await store.upkeep.quarantine.restore(addresses_of(ORPHANS)) == 0
        await check(store, REST, ORPHANS)
        assert len(kept(store)) == len(ORPHANS)


async def test_orphans_go_by_themselves_and_rot_does_not(tmp_path: Path) -> None:
    time = NodeTime(5000.0)
    async with opened(tmp_path, clocks=time.clocks) as store:
        await store.append(SHARDS)
        await set_aside(store, ORPHANS[:2])
        time.true_s = 5600.0
        await set_aside(store, ORPHANS[2:])
        rotten = live_entries(store)[0]
        flip_one(store, rotten, 129)
        while await store.scrub_once():
            pass
        assert await store.upkeep.quarantine.expire(1000) == 0
        time.true_s = 6000.0
        assert await store.upkeep.quarantine.expire(1000) == 2
        time.true_s = 9000.0
    async with opened(tmp_path, clocks=time.clocks) as store:
        store.upkeep._limits = UpkeepLimits(quarantine_s=1000)
        assert not await store.upkeep._expire()  # nobody has said that deletes are allowed
        assert len(kept(store)) == 4
        store.upkeep.may_drop = lambda: True
        assert await store.upkeep._expire()
        assert kept(store) == [str(rotten.info.address)]
        assert len(files_in_quarantine(tmp_path)) == 1


async def test_without_room_orphans_stay_in_service(tmp_path: Path) -> None:
    limits = StoreLimits(capacity_bytes=MIB, reserve_bytes=64 * KIB, volume_bytes=256 * KIB)
    shards = [make_shard(120 * KIB, seed) for seed in range(6)]
    async with opened(tmp_path, limits) as store:
        await append_all(store, shards)
        with pytest.raises(StorageFull):
            await set_aside(store, shards[:2])  # the reserve is not for copies
        await check(store, shards, [])
        assert files_in_quarantine(tmp_path) == []
        assert await set_aside(store, shards[:1]) == 1


async def test_copies_leave_the_reserve_to_deletes_and_compaction(tmp_path: Path) -> None:
    limits = StoreLimits(capacity_bytes=4 * MIB, reserve_bytes=MIB, volume_bytes=MIB)
    shards = [make_shard(90 * KIB, seed) for seed in range(40)]
    async with opened(tmp_path, limits) as store:
        stored = list[ShardRecord]()
        with pytest.raises(StorageFull):
            for shard in shards:
                await store.append([shard])
                stored.append(shard)
        with pytest.raises(StorageFull):
            for shard in stored:
                await set_aside(store, [shard])
        flip_one(store, live_entries(store)[0], 1000)
        while await store.scrub_once():
            pass
        assert store.upkeep.quarantine.bad_shards == 1
        assert store._volumes.room_bytes() > MIB - 4 * KIB  # but for tombstones
        await store.delete(addresses_of(stored[5:]))
        assert await compact_all(store)
        await store.append(stored[5:10])


POINTS = [Point.QUARANTINE_WRITTEN, Point.QUARANTINE_BURIED, Point.QUARANTINE_RESTORED]


@pytest.mark.parametrize("keep_index", [True, False])
@pytest.mark.parametrize("point", POINTS)
async def test_a_crash_at_each_step(tmp_path: Path, point: Point, keep_index: bool) -> None:
    """Every shard is in service or in quarantine, never in both, never gone."""
    data, crash = tmp_path / "data", tmp_path / "crash"
    async with opened(data) as store:
        await store.append(SHARDS)
        with armed(point, crash_in(data, crash)):
            await set_aside(store)
            if point is Point.QUARANTINE_RESTORED:
                await store.upkeep.quarantine.restore([ORPHANS[0].address])
    if not keep_index:
        without_index(crash)
    async with opened(crash) as store:
        match point:
            case Point.QUARANTINE_WRITTEN:
                live = SHARDS
            case Point.QUARANTINE_BURIED:
                live = REST
            case _:
                live = [ORPHANS[0], *REST]
        dead = [shard for shard in SHARDS if shard not in live]
        await check(store, live, dead)
        assert kept(store) == [str(address) for address in sorted(addresses_of(dead))]
        assert len(files_in_quarantine(crash)) == len(dead)
        assert await store.upkeep.quarantine.restore(addresses_of(dead)) == len(dead)
        await check(store, SHARDS, [])


async def test_a_move_leaves_alone_what_is_no_longer_there(tmp_path: Path) -> None:
    """Its tombstone would bury what was appended since."""
    shard, other = SHARDS[1], SHARDS[2]
    async with opened(tmp_path) as store:
        await store.append([shard, other])
        (place, there) = store._catalog.find([shard.address.key, other.address.key])
        assert place is not None
        assert there is not None
        await store.append([shard])
        job = WriteJob(moves=[Move(shard.address.key, place), Move(other.address.key, there)])
        await store._written(job)
        assert [move.key for move in job.moved] == [other.address.key]
        assert await held(store, [shard, other]) == [True, False]


async def test_strangers_in_the_folder_are_left_alone(tmp_path: Path) -> None:
    async with opened(tmp_path) as store:
        await store.append(SHARDS[:1])
    for name in ("README", "x.rot.1", f"{SHARDS[0].address}.gone.1"):
        (tmp_path / "quarantine" / name).write_text("mine")
    async with opened(tmp_path) as store:
        assert kept(store) == []
    assert len(files_in_quarantine(tmp_path)) == 3


async def test_a_node_restored_from_a_snapshot_has_only_orphans_more(tmp_path: Path) -> None:
    """What was deleted since may be there again, right and complete, and is not served as another
    generation: a sweep finds it by listing and sets it aside."""
    data, old = tmp_path / "data", tmp_path / "old"
    again = [make_shard(500, seed, generation=2) for seed in range(3)]
    async with opened(data) as store:
        await append_all(store, SHARDS)
        await store.delete(addresses_of(SHARDS[8:]))
    snapshot(data, old)
    async with opened(data) as store:
        await store.delete(addresses_of(ORPHANS))
        await store.append(again)
        await compact_all(store)
        known = {info.address async for info in store.list()}
    async with opened(old) as store:
        await check(store, SHARDS[:8], SHARDS[8:])
        found = {info.address async for info in store.list()}
        assert found - known == set(addresses_of(ORPHANS))
        assert await store.upkeep.quarantine.set_aside(sorted(found - known)) == len(ORPHANS)
        await store.append(again)
        await compact_all(store)
    without_index(old)
    async with opened(old) as store:
        await check(store, SHARDS[5:8] + again, ORPHANS + SHARDS[8:])

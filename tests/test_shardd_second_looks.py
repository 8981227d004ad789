"""Nothing is taken out of service, or out of quarantine, before it is sure what becomes of it."""

import asyncio
from collections.abc import Sequence
from pathlib import Path

import pytest

from common.errors import StorageFull, StoreReadOnly
from common.hashing import blake3_digest
from common.record import RecordHeader, RecordKind, shard_header
from common.shards import ShardRecord
from common.units import KIB
from common.upkeep import Why
from shardd.entries import Entry
from shardd.group import Incoming, WriteJob
from shardd.store import VolumeStore
from shardd.verify import fault_of
from shardd.volume import volume_name
from tests.bad_sectors import BadSectors
from tests.disks.faulty import EIO, ENOSPC, Flipped, faulty
from tests.disks.recording import RecordingDisk
from tests.flips import flip_one, live_entries
from tests.stores import make_shard
from tests.upkeep import addresses_of, append_all, check, held, opened

SHARDS = [make_shard(500, seed) for seed in range(8)]
ORPHANS = SHARDS[:2]
PAYLOAD_BIT = 8 * 200  # of the first record of a volume, read from its page on


async def scrub_all(store: VolumeStore) -> None:
    store.upkeep.scrubber.start()
    while store.upkeep.scrub_report().running:
        await store.scrub_once()


def in_quarantine(store: VolumeStore, why: Why) -> list[ShardRecord]:
    page = store.upkeep.quarantine.page(None, 100)
    kept = {each.address for each in page if each.why is why}
    return [shard for shard in SHARDS if shard.address in kept]


@pytest.mark.parametrize("looks", [1, 2])
async def test_rot_is_what_two_looks_find(tmp_path: Path, looks: int) -> None:
    """One may be an error on the way from the disk, which says nothing about what lies there."""
    with faulty() as disk:
        async with opened(tmp_path, disk=disk) as store:
            await append_all(store, SHARDS)
            for at in range(1, looks + 1):
                disk.script("preadv", Flipped(PAYLOAD_BIT), at, volume_name(1))
            await scrub_all(store)
            bad = SHARDS[:1] if looks == 2 else []
            assert in_quarantine(store, Why.ROT) == bad
            report = store.upkeep.scrub_report()
            assert (report.bad, report.rotten) == (len(bad), len(bad))
            await check(store, SHARDS[len(bad) :], bad)
    assert len(list((tmp_path / "quarantine").iterdir())) == len(bad)


async def test_zeros_that_cannot_be_read_are_bad_all_the_same(tmp_path: Path) -> None:
    """What is taken in place of them, zeros, matches their checksum."""
    zeros, other, disk = bytes(20 * KIB), make_shard(20 * KIB), BadSectors()
    shard = ShardRecord(other.info._replace(checksum=blake3_digest(zeros)), zeros)
    async with opened(tmp_path, disk=disk) as store:
        await store.append([shard])
        (entry,) = live_entries(store)
        disk.bad.add((volume_name(entry.volume), (entry.offset & -4096) + 2 * 4096))
        await scrub_all(store)
        assert store.upkeep.quarantine.bad_shards == 1


def test_a_record_with_another_number_is_another_record() -> None:
    """Unless its number is not believed anyway."""
    (shard, *_) = SHARDS
    record = shard_header(shard.info, 7) + shard.payload
    stored = Entry.of(RecordHeader(RecordKind.SHARD, 7, shard.info), 1, 0)
    for entry in (stored, stored.made_uncertain()):
        assert fault_of(entry, memoryview(record)) == ""
    other = stored._replace(sequence=8)
    assert fault_of(other, memoryview(record)) == "another record stands there"


async def test_what_was_stored_anew_is_not_bad_when_it_is_answered(tmp_path: Path) -> None:
    """Or whoever asks right after the answer would mend it once more."""
    async with opened(tmp_path) as store:
        await append_all(store, SHARDS)
        flip_one(store, live_entries(store)[0], 140)
        await scrub_all(store)
        (shard,) = in_quarantine(store, Why.ROT)
        told = asyncio.get_running_loop().create_future()

        def answered(_: Sequence[WriteJob]) -> None:
            told.set_result(store.upkeep.quarantine.bad_shards)

        store.submit([WriteJob(appends=[Incoming(shard)])], answered)
        assert await told == 0


async def set_aside(path: Path) -> None:
    async with opened(path) as store:
        await append_all(store, SHARDS)
        assert await store.upkeep.quarantine.set_aside(addresses_of(ORPHANS)) == 2


async def test_what_a_full_disk_does_not_take_back_stays_in_quarantine(tmp_path: Path) -> None:
    await set_aside(tmp_path)
    with faulty() as disk:
        async with opened(tmp_path, disk=disk) as store:
            disk.script("pwritev", ENOSPC)
            with pytest.raises(StorageFull):
                await store.upkeep.quarantine.restore(addresses_of(ORPHANS))
            assert in_quarantine(store, Why.ORPHAN) == ORPHANS
            assert await store.upkeep.quarantine.restore(addresses_of(ORPHANS)) == 2
            await check(store, SHARDS, [])


async def test_what_could_not_be_taken_back_is_kept_for_the_next_start(tmp_path: Path) -> None:
    await set_aside(tmp_path)
    with faulty() as disk:
        async with opened(tmp_path, disk=disk) as store:
            disk.script("fdatasync", EIO)
            with pytest.raises(StoreReadOnly):
                await store.upkeep.quarantine.restore(addresses_of(ORPHANS))
            assert in_quarantine(store, Why.ORPHAN) == ORPHANS
    async with opened(tmp_path) as store:
        left = in_quarantine(store, Why.ORPHAN)
        assert await held(store, ORPHANS) == [shard not in left for shard in ORPHANS]
        await store.upkeep.quarantine.restore(addresses_of(ORPHANS))
        await check(store, SHARDS, [])


async def test_what_is_taken_back_is_durable_before_its_copy_goes(tmp_path: Path) -> None:
    await set_aside(tmp_path)
    disk, volume = RecordingDisk(), volume_name(1)
    async with opened(tmp_path, disk=disk) as store:
        disk.calls.clear()
        assert await store.upkeep.quarantine.restore(addresses_of(ORPHANS[:1])) == 1
        written, synced, unlinked, forgotten = disk.changes()
    assert (written, synced) == (f"pwritev {volume}", f"fdatasync {volume}")
    assert (unlinked.split()[0], forgotten) == ("unlink", "fsync_dir quarantine")

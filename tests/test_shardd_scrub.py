"""Scrub finds every rotten record, and nothing else; what it finds is never served again."""

import random
from collections.abc import Sequence
from pathlib import Path

import pytest

from common.errors import Corrupt
from common.shards import ShardMissing, ShardRecord
from common.units import GIB, KIB, MIB
from common.upkeep import Why
from shardd.disk import RealDisk
from shardd.scrub_state import ScrubState
from shardd.store import StoreLimits, VolumeStore
from shardd.throttle import Clocks
from shardd.upkeep import UpkeepLimits
from shardd.verify import Examined
from tests.bad_sectors import BAD_PLACES, BadSectors
from tests.flips import flip_many, flip_one, live_entries
from tests.stores import make_shard
from tests.upkeep import addresses_of, append_all, compact_all, held, opened, shards_of

FAST = UpkeepLimits(compact_bytes_per_s=100 * GIB, scrub_bytes_per_s=100 * GIB)
LIMITS = StoreLimits(volume_bytes=256 * KIB, upkeep=FAST)


class Time:
    """A wall clock that goes when told to."""

    def __init__(self) -> None:
        self.now_s = 1_000_000.0
        self.slept: list[float] = []

    @property
    def clocks(self) -> Clocks:
        return Clocks(lambda: self.now_s, lambda: 100.0, self._sleep)

    async def _sleep(self, seconds: float) -> None:
        self.slept.append(seconds)


async def scrub_all(store: VolumeStore) -> int:
    """How many steps it took until nothing was due."""
    steps = 0
    while await store.scrub_once():
        steps += 1
        assert steps < 1000, "scrub does not come to an end"
    return steps


def bad_of(store: VolumeStore) -> list[str]:
    page = store.upkeep.quarantine.page(None, 10_000)
    assert len(page) == store.upkeep.quarantine.bad_shards
    assert all(each.why is Why.ROT for each in page)
    return [str(each.address) for each in page]


async def test_a_thousand_flipped_bytes_are_all_found(tmp_path: Path) -> None:
    shards = shards_of(range(600))
    async with opened(tmp_path, LIMITS) as store:
        await append_all(store, shards)
        bad = flip_many(store, random.Random(1), 1000)
        good = [shard for shard in shards if shard.address not in bad]
        assert 100 < len(good) < 500
        await scrub_all(store)
        assert bad_of(store) == [str(address) for address in sorted(bad)]
        assert all(await held(store, good))
        assert await store.read(sorted(bad)) == [ShardMissing(address) for address in sorted(bad)]
        assert (await store.stat()).shards == len(good)
    async with opened(tmp_path, LIMITS) as store:
        assert len(bad_of(store)) == len(bad)
        assert not any(isinstance(got, ShardRecord) for got in await store.read(sorted(bad)))
        await store.append([shard for shard in shards if shard.address in bad])  # repaired
        report = store.upkeep.scrub_report()
        assert (report.bad, report.rotten) == (0, len(bad))  # a disk that rots stays suspicious


async def test_sound_records_are_left_alone(tmp_path: Path) -> None:
    shards, time = shards_of(range(40)), Time()
    async with opened(tmp_path, LIMITS, clocks=time.clocks) as store:
        await append_all(store, shards)
        await store.delete(addresses_of(shards[:10]))
        assert store.upkeep.scrubber.verified_at == 0
        await scrub_all(store)
        report = store.upkeep.scrub_report()
        assert (report.running, report.passes, report.bad) == (False, 1, 0)
        assert report.scanned_bytes == report.total_bytes > 0
        assert report.started_at == report.verified_at == 1_000_000
        assert all(await held(store, shards[10:]))
        assert await store.scrub_once() is False  # for a week
        time.now_s += FAST.scrub_interval_s
        assert await store.scrub_once() is True


async def test_dead_space_may_rot(tmp_path: Path) -> None:
    shards = shards_of(range(8))
    async with opened(tmp_path, LIMITS) as store:
        await store.append(shards)
        dead = live_entries(store)[:4]
        await store.delete([entry.info.address for entry in dead])
        for entry in dead:
            flip_one(store, entry, 200)
        await scrub_all(store)
        assert bad_of(store) == []


@pytest.mark.parametrize("number", BAD_PLACES)
async def test_an_unreadable_sector_costs_only_the_records_in_it(
    tmp_path: Path, number: int
) -> None:
    shards, disk = shards_of(range(60)), BadSectors(number)
    async with opened(tmp_path, LIMITS, disk) as store:
        await append_all(store, shards)
        entries, hit = live_entries(store), set[bytes]()
        for entry in (entries[5], entries[30], entries[-1]):
            page = (entry.offset + 300) & -4096
            disk.bad.add((store._volumes.by_number[entry.volume].path.name, page))
            for each in entries:
                end = each.offset + 128 + each.payload_bytes
                if each.volume == entry.volume and each.offset < page + 4096 and page < end:
                    hit.add(each.key)
        assert 3 <= len(hit) < 30
        await scrub_all(store)
        assert store.failure is None
        assert bad_of(store) == sorted(str(s.address) for s in shards if s.address.key in hit)
        assert all(await held(store, [s for s in shards if s.address.key not in hit]))


@pytest.mark.parametrize("seed", [4, 5])
async def test_what_a_read_stumbles_over_is_looked_at(tmp_path: Path, seed: int) -> None:
    shards, time = shards_of(range(20)), Time()
    async with opened(tmp_path, LIMITS, clocks=time.clocks) as store:
        await store.append(shards)
        await scrub_all(store)
        (entry,) = store._catalog.entries([shards[seed].address.key])
        flip_one(store, entry, 60)  # of the header
        with pytest.raises(Corrupt, match="is not where it should be"):
            await store.read([shards[seed].address])
        assert store.upkeep.scrubber.wanted.is_set()
        assert await store.scrub_once()
        assert bad_of(store) == [str(shards[seed].address)]
        report = store.upkeep.scrub_report()
        assert (report.running, report.bad) == (True, 1)  # the rest of the disk, too


async def test_a_read_that_failed_once_condemns_nothing(tmp_path: Path) -> None:
    shard, disk = make_shard(100 * KIB, 1), BadSectors()
    async with opened(tmp_path, LIMITS, disk) as store:
        await store.append([shard])
        disk.bad.add(("00000001.vol", 4096))
        with pytest.raises(Corrupt, match="cannot be read"):
            await store.read([shard.address])
        disk.bad.clear()
        await scrub_all(store)
        assert bad_of(store) == []
        assert await held(store, [shard]) == [True]


async def test_a_volume_that_was_taken_away_is_trouble(tmp_path: Path) -> None:
    """Its step comes again, but not at once and for ever."""
    shards = shards_of(range(20))
    async with opened(tmp_path, LIMITS) as store:
        await append_all(store, shards)
        store.upkeep.scrubber.start()
        assert await store.scrub_once()  # in the middle of the first
        state = store.upkeep.scrubber._state
        state.offset = 4096
        taken = store._volumes.by_number[state.volume].path
        taken.rename(tmp_path / "elsewhere")
        with pytest.raises(FileNotFoundError):
            await store.scrub_once()
        (tmp_path / "elsewhere").rename(taken)
        await scrub_all(store)


async def test_compaction_copies_no_rot(tmp_path: Path) -> None:
    shards = shards_of(range(60))
    async with opened(tmp_path, LIMITS) as store:
        await append_all(store, shards)
        await store.delete([shard.address for at, shard in enumerate(shards) if at % 3])
        live = [entry for entry in live_entries(store) if entry.volume == 2]
        for entry in live[:2]:
            flip_one(store, entry, 130)
        assert await compact_all(store)
        assert not (tmp_path / "volumes" / "00000002.vol").exists()
        assert bad_of(store) == sorted(str(entry.info.address) for entry in live[:2])
        rotten = {entry.key for entry in live[:2]}
        assert all(await held(store, [s for s in shards[::3] if s.address.key not in rotten]))


@pytest.mark.parametrize("made_good", ["deleted", "appended"])
async def test_a_bad_shard_stays_on_the_list_until_it_is_made_good(
    tmp_path: Path, made_good: str
) -> None:
    shards = shards_of(range(6))
    async with opened(tmp_path, LIMITS) as store:
        await store.append(shards)
        flip_one(store, live_entries(store)[0], 131)
        await scrub_all(store)
        (address,) = bad_of(store)
    shard = next(shard for shard in shards if str(shard.address) == address)
    async with opened(tmp_path, LIMITS) as store:
        assert bad_of(store) == [address]
        await store.append([make_shard(10, 99)])
        assert bad_of(store) == [address]
        if made_good == "deleted":
            await store.delete([shard.address])
        else:
            await store.append([shard])
        assert bad_of(store) == []
        assert await held(store, [shard]) == [made_good == "appended"]
        assert list((tmp_path / "quarantine").iterdir()) == []


async def test_what_happened_meanwhile_is_not_undone(tmp_path: Path) -> None:
    """Rot was seen, but before its tombstone the shard was appended anew, or deleted."""
    shards = shards_of([1, 2, 3, 5])
    async with opened(tmp_path, LIMITS) as store:
        await store.append(shards)
        entries = live_entries(store)
        for entry in entries:
            flip_one(store, entry, 140)
        condemn, seen = store.upkeep.quarantine.condemn, 0
        scrubber = store.upkeep.scrubber

        async def late(examined: Sequence[Examined]) -> None:
            nonlocal seen
            if examined:
                seen += len(examined)
                await store.append(shards[:2])
                await store.delete([shards[2].address])
            await condemn(examined)

        scrubber._condemn = late
        await scrub_all(store)
        assert seen == 4
        assert await held(store, shards) == [True, True, False, False]
        assert bad_of(store) == [str(shards[3].address)]
        assert (await store.stat()).shards == 2


async def test_where_scrub_is_survives_a_restart(tmp_path: Path) -> None:
    shards, time, steps = shards_of(range(80)), Time(), 0
    async with opened(tmp_path, LIMITS, clocks=time.clocks) as store:
        await append_all(store, shards)
        total_bytes = sum(len(s.payload) for s in shards)
    while True:
        async with opened(tmp_path, LIMITS, clocks=time.clocks) as store:
            if not await store.scrub_once():
                break
            steps += 1
            time.now_s += 10
            report = store.upkeep.scrub_report()
    assert steps > 6
    assert (report.passes, report.started_at) == (1, 1_000_000)
    assert total_bytes < report.scanned_bytes < 1.3 * total_bytes  # nothing was read twice
    (tmp_path / "scrub.json").write_text('{"passes": "many"')
    async with opened(tmp_path, LIMITS, clocks=time.clocks) as store:
        assert store.upkeep.scrub_report().passes == 0
        assert await store.scrub_once()


def test_no_flipped_bit_makes_another_state_of_it(tmp_path: Path) -> None:
    """Shards would have passed for verified that nobody had read."""
    disk, file = RealDisk(), tmp_path / "scrub.json"
    state = ScrubState(passes=2, covered=12, verified_at={2: 1_000, 10: 2_000}, rotten=1)
    state.save(disk, file)
    assert ScrubState.load(disk, file) == state
    good = file.read_bytes()
    for bit in range(8 * len(good)):
        damaged = bytearray(good)
        damaged[bit // 8] ^= 1 << bit % 8
        file.write_bytes(damaged)
        assert ScrubState.load(disk, file) in (state, ScrubState()), damaged


async def test_the_oldest_volume_is_first_and_tells_the_age(tmp_path: Path) -> None:
    shards, time = shards_of(range(40)), Time()
    async with opened(tmp_path, LIMITS, clocks=time.clocks) as store:
        await append_all(store, shards)
        scrubber = store.upkeep.scrubber
        await scrub_all(store)
        numbers = sorted(store._volumes.by_number)
        assert len(numbers) >= 3
        for age, number in enumerate(reversed(numbers)):
            scrubber._state.verified_at[number] = 900_000 + age
        assert scrubber.verified_at == 900_000
        await append_all(store, shards_of(range(40, 80)))  # later volumes: not in that pass
        assert scrubber.verified_at == 900_000
        time.now_s += 100
        scrubber.start()
        order: list[int] = []
        while await store.scrub_once():
            if (number := scrubber._state.volume) and number not in order:
                order.append(number)
        later = [number for number in store._volumes.by_number if number not in numbers]
        assert order == [*sorted(later), *reversed(numbers)]
        assert scrubber.verified_at == 1_000_100


async def test_a_shard_was_not_verified_before_it_was_there(tmp_path: Path) -> None:
    """Its volume was."""
    shards, time = shards_of(range(1, 4)), Time()
    async with opened(tmp_path, LIMITS, clocks=time.clocks) as store:
        await store.append(shards[:1])
        await scrub_all(store)
        await store.append(shards[1:2])
        assert await verified(store, shards) == [1_000_000, 0, 0]
        store.upkeep.scrubber.start()
        while not store.upkeep.scrubber._state.volume:
            await store.scrub_once()
        await store.append(shards[2:])  # too late to count on it
        await scrub_all(store)
        assert await verified(store, shards) == [1_000_000, 1_000_000, 0]
    async with opened(tmp_path, LIMITS, clocks=time.clocks) as store:
        assert await verified(store, shards) == [1_000_000, 1_000_000, 0]
        time.now_s += FAST.scrub_interval_s
        await scrub_all(store)
        assert await verified(store, shards) == [int(time.now_s)] * 3


async def verified(store: VolumeStore, shards: Sequence[ShardRecord]) -> list[int]:
    return [await store.verified_at(shard.address.key) for shard in shards]


async def test_scrub_is_throttled(tmp_path: Path) -> None:
    time = Time()
    limits = StoreLimits(upkeep=UpkeepLimits(scrub_bytes_per_s=MIB))
    async with opened(tmp_path, limits, clocks=time.clocks) as store:
        await store.append([make_shard(MIB, seed) for seed in range(8)])
        await scrub_all(store)
    assert time.slept == pytest.approx([3.0, 6.0], abs=0.2)

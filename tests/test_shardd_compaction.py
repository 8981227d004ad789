"""Compaction gives back the room of dead records, and loses or brings back nothing."""

import asyncio
import errno
import random
from pathlib import Path

import pytest

from common.errors import StorageFull, StoreReadOnly
from common.failpoints import Point, armed
from common.shards import ShardRecord
from common.units import KIB, MIB
from shardd.choice import Candidate, Situation, choose
from shardd.disk import RealDisk
from shardd.store import StoreLimits
from shardd.throttle import Clocks
from shardd.upkeep import UpkeepLimits
from shardd.volume import PAGE_BYTES, SUPERBLOCK_BYTES
from tests.stores import make_shard
from tests.upkeep import (
    FAST,
    SMALL_VOLUMES,
    addresses_of,
    append_all,
    bytes_on_disk,
    check,
    compact_all,
    held,
    opened,
    shards_of,
    volume_files,
    without_index,
)


async def test_the_room_of_deleted_shards_comes_back(tmp_path: Path) -> None:
    shards = shards_of(range(80))
    live, dead = shards[::3], [shard for at, shard in enumerate(shards) if at % 3]
    async with opened(tmp_path) as store:
        await append_all(store, shards)
        await store.delete(addresses_of(dead))
        before = bytes_on_disk(tmp_path)
        assert await compact_all(store) > 2
        kept = sum(len(shard.payload) for shard in live)
        assert bytes_on_disk(tmp_path) < kept * 1.5 < before
        assert (await store.stat()).used_bytes == bytes_on_disk(tmp_path)
        await check(store, live, dead)
        assert await store.compact_once() == 0
    for rebuild in (False, True):
        if rebuild:
            without_index(tmp_path)
        async with opened(tmp_path) as store:
            await check(store, live, dead)


@pytest.mark.parametrize("restart", [False, True])
async def test_when_all_is_deleted_all_room_comes_back(tmp_path: Path, restart: bool) -> None:
    shards = shards_of(range(60))
    async with opened(tmp_path) as store:
        await append_all(store, shards)
        await store.delete(addresses_of(shards))
        if not restart:
            await compact_all(store)
    if restart:
        async with opened(tmp_path) as store:
            await compact_all(store)
    assert bytes_on_disk(tmp_path) <= 2 * SUPERBLOCK_BYTES
    without_index(tmp_path)
    async with opened(tmp_path) as store:
        await check(store, [], shards)
        await store.append(shards[:8])
        await check(store, shards[:8], shards[8:])


async def test_a_tombstone_stays_as_long_as_what_it_buries(tmp_path: Path) -> None:
    """Large shards lie in one volume, their tombstones in another, which is compacted first."""
    large = [make_shard(70 * KIB, seed) for seed in range(4)]
    filler = [make_shard(9 * KIB, seed) for seed in range(40)]
    async with opened(tmp_path) as store:
        await store.append(large)
        await store.delete([large[0].address])
        await append_all(store, filler)
        await store.delete(addresses_of(filler[:20]))
        first_small = next(v for v in store._volumes.by_number.values() if v.volume_class == 1)
        while first_small.path.exists():
            assert await store.compact_once()
        assert volume_files(tmp_path)[0].name == "00000001.vol"  # the large ones: less is dead
        await check(store, large[1:] + filler[20:], [large[0], *filler[:20]])
    without_index(tmp_path)
    async with opened(tmp_path) as store:
        await check(store, large[1:] + filler[20:], [large[0], *filler[:20]])
        await store.delete(addresses_of(large[1:] + filler[20:]))
        await compact_all(store)
    assert bytes_on_disk(tmp_path) <= 2 * SUPERBLOCK_BYTES


async def test_volume_numbers_are_never_used_again(tmp_path: Path) -> None:
    """An index from before would take the new file for the old one."""
    shard, other = make_shard(500, 1), make_shard(500, 2)
    numbers: list[set[str]] = []
    for _ in range(3):
        async with opened(tmp_path) as store:
            await store.append([shard])
            numbers.append({file.name for file in volume_files(tmp_path)})
            await store.delete([shard.address])
            await compact_all(store)
    assert len(set.union(*numbers)) == sum(map(len, numbers))
    async with opened(tmp_path) as store:
        await store.append([other])
        await check(store, [other], [shard])


async def test_compaction_against_a_model(tmp_path: Path) -> None:
    """Appends, deletes, compactions, restarts and lost indexes in random order."""
    rng, pool = random.Random(4), shards_of(range(48))
    live: dict[int, ShardRecord] = {}
    for _ in range(14):
        if rng.random() < 0.4:
            without_index(tmp_path)
        async with opened(tmp_path) as store:
            await check(
                store, list(live.values()), [s for i, s in enumerate(pool) if i not in live]
            )
            for _ in range(rng.randint(1, 12)):
                chosen = rng.sample(range(len(pool)), rng.randint(1, 16))
                match rng.choice(["append", "delete", "compact"]):
                    case "append":
                        await store.append([pool[at] for at in chosen])
                        live |= {at: pool[at] for at in chosen}
                    case "delete":
                        await store.delete([pool[at].address for at in chosen])
                        live = {at: shard for at, shard in live.items() if at not in chosen}
                    case "compact":
                        await store.compact_once()
            await check(
                store, list(live.values()), [s for i, s in enumerate(pool) if i not in live]
            )


async def test_readers_and_writers_beside_it_notice_nothing(tmp_path: Path) -> None:
    shards = shards_of(range(120))
    live, dead = shards[::3], [shard for at, shard in enumerate(shards) if at % 3]
    done = asyncio.Event()

    async def read_all() -> int:
        rounds = 0
        while not done.is_set() or not rounds:
            assert all(await held(store, live))
            rounds += 1
        return rounds

    async def rewrite() -> None:
        """What is appended and deleted while its old record moves."""
        while not done.is_set():
            await store.append(live[:5])
            await store.delete(addresses_of(dead[:5]))
            await store.append(dead[:5])

    async with opened(tmp_path) as store:
        await append_all(store, shards)
        await store.delete(addresses_of(dead))
        others = [asyncio.ensure_future(read_all()), asyncio.ensure_future(rewrite())]
        for _ in range(6):
            await store.compact_once()
        done.set()
        await asyncio.gather(*others)
        await check(store, live + dead[:5], dead[5:])
    without_index(tmp_path)
    async with opened(tmp_path) as store:
        await check(store, live + dead[:5], dead[5:])


@pytest.mark.parametrize("seed", [1, 4])
async def test_a_reader_with_an_old_place_looks_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    """The volume goes after the reader has asked where the shard is."""
    shards = shards_of(range(200))
    async with opened(tmp_path) as store:
        await append_all(store, shards)
        (old,) = store._catalog.find([shards[seed].address.key])
        await store.delete(addresses_of([s for at, s in enumerate(shards) if at != seed]))
        await compact_all(store)
        assert old is not None
        assert old.volume not in store._volumes.by_number
        recall, answers = store._catalog.recall, [old, old]
        monkeypatch.setattr(
            store._catalog, "recall", lambda key: answers.pop() if answers else recall(key)
        )
        assert await held(store, [shards[seed]]) == [True]
        assert not answers


async def test_on_a_full_disk_deletes_and_compaction_make_room(tmp_path: Path) -> None:
    limits = StoreLimits(
        capacity_bytes=2 * MIB, reserve_bytes=256 * KIB, volume_bytes=256 * KIB, upkeep=FAST
    )
    stored: list[ShardRecord] = []
    async with opened(tmp_path, limits) as store:
        with pytest.raises(StorageFull):
            for shard in shards_of(range(1000)):
                await store.append([shard])
                stored.append(shard)
        dead, live = stored[::4], [shard for at, shard in enumerate(stored) if at % 4]
        await store.delete(addresses_of(dead))
        with pytest.raises(StorageFull):
            await store.append([make_shard(200 * KIB, 5000)])
        await compact_all(store)
        await store.append([make_shard(200 * KIB, 5000)])
        await check(store, [*live, make_shard(200 * KIB, 5000)], dead)


async def test_copies_leave_some_of_the_reserve(tmp_path: Path) -> None:
    """Or the disk would be full to the last byte just before a volume goes: the index could not be
    written then, so that the volume could not go, and no delete either."""
    reserve_bytes = 512 * KIB
    limits = StoreLimits(
        capacity_bytes=4 * MIB, reserve_bytes=reserve_bytes, volume_bytes=reserve_bytes, upkeep=FAST
    )
    rooms, stored = list[int](), list[ShardRecord]()
    async with opened(tmp_path, limits) as store:
        with pytest.raises(StorageFull):
            for seed in range(2000):
                await store.append([make_shard(8 * KIB, seed)])
                stored.append(make_shard(8 * KIB, seed))
        random.Random(1).shuffle(stored)
        with armed(Point.COMPACT_COPIED, lambda: rooms.append(store._volumes.room_bytes())):
            for at in range(0, 120, 4):
                await store.delete(addresses_of(stored[at : at + 4]))
                await compact_all(store)
        await check(store, stored[120:], stored[:120])
    assert len(rooms) > 5
    assert min(rooms) > reserve_bytes // 8 - 3 * PAGE_BYTES


async def test_copying_is_throttled(tmp_path: Path) -> None:
    slept: list[float] = []

    async def sleep(seconds: float) -> None:
        slept.append(seconds)

    limits = StoreLimits(volume_bytes=32 * MIB, upkeep=UpkeepLimits(compact_bytes_per_s=MIB))
    clocks = Clocks(steady_s=lambda: 100.0, sleep=sleep)
    shards = [make_shard(MIB, seed) for seed in range(20)]
    async with opened(tmp_path, limits, clocks=clocks) as store:
        await append_all(store, shards)
        await store.delete(addresses_of(shards[:12]))
        assert await compact_all(store)
    # The clock stands still: each piece waits for all that went before it.
    assert slept == pytest.approx([3.0, 6.0], abs=0.2)


class StuckDisk(RealDisk):
    """Refuses to delete."""

    def unlink(self, path: Path) -> None:
        raise OSError(errno.EROFS, "read-only file system")


async def test_a_volume_that_cannot_be_removed_ends_all_writing(tmp_path: Path) -> None:
    shards = shards_of(range(20))
    async with opened(tmp_path, disk=StuckDisk()) as store:
        await append_all(store, shards)
        await store.delete(addresses_of(shards[:15]))
        with pytest.raises(StoreReadOnly, match="could not be removed"):
            await compact_all(store)
        assert all(await held(store, shards[15:]))
        with pytest.raises(StoreReadOnly):
            await store.append(shards[:1])
    async with opened(tmp_path) as store:
        await check(store, shards[15:], shards[:15])
        await compact_all(store)
        await check(store, shards[15:], shards[:15])


CALM = Situation(dead_part=0.3, tight=False, room_bytes=MIB)


@pytest.mark.parametrize(
    ("candidate", "worth"),
    [
        (Candidate(1, 0, 0, False), False),  # empty already
        (Candidate(1, 1000, 0, True), True),  # nothing to copy
        (Candidate(1, 100 * KIB, 71 * KIB, False), False),
        (Candidate(1, 100 * KIB, 69 * KIB, False), True),
        (Candidate(1, 100 * KIB, 20 * KIB, True), True),
        (Candidate(1, 100 * KIB, 60 * KIB, True), False),
        (Candidate(1, 20 * KIB, KIB, True), False),  # open, and little to gain
        (Candidate(1, 10 * MIB, 2 * MIB, False), False),  # no room for the copies
    ],
)
def test_which_volume_is_worth_it(candidate: Candidate, worth: bool) -> None:
    assert (choose([candidate], CALM) is candidate) is worth


def test_the_emptiest_is_first_and_a_tight_node_takes_what_it_can_get() -> None:
    volumes = [Candidate(n, 100 * KIB, (70 + n) * KIB, False) for n in (5, 1, 2)]
    assert choose(volumes, CALM) is None
    tight = Situation(0.3, True, MIB)
    assert choose(volumes, tight) is volumes[1]
    assert choose([Candidate(1, 10 * MIB, 10 * MIB - 8 * KIB, False)], tight) is None
    assert SMALL_VOLUMES.upkeep.compact_dead_part == 0.3


async def test_with_the_usual_volumes_a_small_disk_can_be_compacted_when_full(
    tmp_path: Path,
) -> None:
    """One volume as large as the disk would leave no room for its copies."""
    limits = StoreLimits(capacity_bytes=8 * MIB, reserve_bytes=MIB, upkeep=FAST)
    stored: list[ShardRecord] = []
    async with opened(tmp_path, limits) as store:
        with pytest.raises(StorageFull):
            for seed in range(1000):
                await store.append([make_shard(90 * KIB, seed)])
                stored.append(make_shard(90 * KIB, seed))
        dead = stored[::3]
        await store.delete(addresses_of(dead))
        await compact_all(store)
        back = len(dead) * 4 // 5
        await append_all(store, [make_shard(90 * KIB, 2000 + seed) for seed in range(back)])

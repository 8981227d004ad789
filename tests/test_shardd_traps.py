"""What stands in a payload decides nothing but what is in that payload: no number, no other shard,
whatever it says and wherever it is copied later."""

from collections.abc import Sequence
from pathlib import Path

import pytest

from common.errors import StoreReadOnly
from common.failpoints import Point, armed
from common.ids import ShardAddress
from common.record import HEADER_BYTES
from common.shards import ShardRecord
from common.units import KIB
from shardd.index import remove_index
from shardd.store import VolumeStore
from shardd.volume import SUPERBLOCK_BYTES, VolumeClass, align_up
from tests.bad_sectors import BadSectors
from tests.reopened import fill, offsets, opened, present, volume
from tests.stores import make_shard
from tests.traps import (
    DAMAGES,
    HIGHEST,
    LARGE,
    SMALL,
    Sizes,
    embedded_shard,
    embedded_tombstone,
    other_bytes,
    shards_for,
    spring,
)
from tests.upkeep import snapshot

both_classes = pytest.mark.parametrize("sizes", [SMALL, LARGE], ids=["small", "large"])
any_damage = pytest.mark.parametrize("damage", DAMAGES)


def trap(sizes: Sizes) -> ShardRecord:
    return make_shard(sizes.outer, 1000)


def bad_shards(store: VolumeStore) -> list[ShardAddress]:
    return [kept.address for kept in store.upkeep.quarantine.page(None, 100)]


async def holds(path: Path, live: Sequence[ShardRecord], dead: Sequence[ShardRecord] = ()) -> None:
    """Now, and with the index made anew, twice."""
    for _ in range(3):
        async with opened(path) as store:
            assert await present(store, live) == [True] * len(live)
            assert await present(store, dead) == [False] * len(dead)
        remove_index(path / "index.db")


@both_classes
@any_damage
async def test_numbers_in_a_payload_are_not_gone_on_from(
    tmp_path: Path, sizes: Sizes, damage: str
) -> None:
    inside, *later = shards_for(sizes, *range(6))
    before = make_shard(40, 77)
    await fill(tmp_path, [before], [trap(sizes)])
    number = 1 if sizes is SMALL else 2
    at = offsets([before] if sizes is SMALL else [])[-1]
    pieces = [
        embedded_shard(inside, HIGHEST),
        embedded_tombstone(make_shard(40, 88).address, HIGHEST),
        embedded_tombstone(before.address, HIGHEST - 1),
    ]
    spring(tmp_path, number, at, sizes, pieces, damage)
    async with opened(tmp_path) as store:
        assert await present(store, [before]) == [True]
        await store.append(later)
        await store.delete([later[0].address])
    await holds(tmp_path, [before, *later[1:]], later[:1])


@both_classes
@any_damage
@pytest.mark.parametrize("stored", ["before", "behind", "later"])
async def test_a_shard_in_a_payload_replaces_no_other(
    tmp_path: Path, sizes: Sizes, damage: str, stored: str
) -> None:
    """`behind` the trap in the same volume nothing is certain either; what is read last wins."""
    (victim,) = shards_for(sizes, 1)
    await fill(tmp_path, *([[victim]] if stored == "before" else []), [trap(sizes)])
    if stored == "behind":
        await fill(tmp_path, [victim])
    at = offsets([victim] if stored == "before" else [])[-1]
    spring(tmp_path, 1, at, sizes, [embedded_shard(other_bytes(victim), HIGHEST)], damage)
    if stored == "later":
        await fill(tmp_path, [victim])
    await holds(tmp_path, [victim])


@both_classes
@any_damage
async def test_what_the_index_knows_is_not_replaced_either(
    tmp_path: Path, sizes: Sizes, damage: str
) -> None:
    """It was flushed before the trap came."""
    victim, buried = shards_for(sizes, 1, 2)
    async with opened(tmp_path) as store:
        await store.append([victim, buried])
        await store.delete([buried.address])
    index = (tmp_path / "index.db").read_bytes()
    await fill(tmp_path, [trap(sizes)])
    at = offsets([victim, buried])[-1] + (HEADER_BYTES if sizes is SMALL else 0)
    pieces = [
        embedded_shard(other_bytes(victim), HIGHEST),
        embedded_shard(buried, HIGHEST),
        embedded_tombstone(victim.address, HIGHEST),
    ]
    spring(tmp_path, 1, at, sizes, pieces, damage)
    (tmp_path / "index.db").write_bytes(index)
    async with opened(tmp_path) as store:
        assert await present(store, [victim, buried]) == [True, False]
    await holds(tmp_path, [victim], [buried])


@both_classes
async def test_a_later_append_or_delete_of_an_address_in_a_payload_holds(
    tmp_path: Path, sizes: Sizes
) -> None:
    kept, deleted = shards_for(sizes, 1, 2)
    await fill(tmp_path, [trap(sizes)])
    pieces = [embedded_shard(other_bytes(each), HIGHEST) for each in (kept, deleted)]
    spring(tmp_path, 1, SUPERBLOCK_BYTES, sizes, pieces, "rotten")
    async with opened(tmp_path) as store:
        await store.append([kept, deleted])
        await store.delete([deleted.address])
        assert await present(store, [kept, deleted]) == [True, False]
    await holds(tmp_path, [kept], [deleted])


@both_classes
async def test_what_was_deleted_stays_so_and_is_told(tmp_path: Path, sizes: Sizes) -> None:
    """Nobody can tell a copy in a payload from a shard that came back before the damage: it is
    not served, but the coordinator learns that this one may be missing."""
    copied, back, gone = shards_for(sizes, 1, 2, 3)
    async with opened(tmp_path) as store:
        await store.append([copied, back, gone, make_shard(40, 9)])
        await store.delete([each.address for each in (copied, back, gone)])
        await store.append([trap(sizes)])
        await store.append([back])
    number, at = await _place_of(tmp_path, trap(sizes))
    pieces = [embedded_shard(copied, HIGHEST), embedded_shard(gone, 1)]
    # What the tombstones say is certain: for small volumes they lie before the trap.
    spring(tmp_path, number, at, sizes, pieces, "rotten")
    async with opened(tmp_path) as store:
        assert await present(store, [copied, back, gone]) == [False] * 3
        assert bad_shards(store) == sorted([copied.address, back.address])
        await store.append([back])
        assert bad_shards(store) == [copied.address]
    await holds(tmp_path, [back], [copied, gone])


async def _place_of(path: Path, shard: ShardRecord) -> tuple[int, int]:
    async with opened(path) as store:
        (entry,) = store._catalog.entries([shard.address.key])
    return entry.volume, entry.offset


@both_classes
async def test_compaction_makes_no_number_of_a_payload_certain(
    tmp_path: Path, sizes: Sizes
) -> None:
    inside, behind, *later = shards_for(sizes, *range(5))
    await fill(tmp_path, [trap(sizes)], [behind])
    spring(tmp_path, 1, SUPERBLOCK_BYTES, sizes, [embedded_shard(inside, HIGHEST)], "rotten")
    async with opened(tmp_path) as store:
        assert await present(store, [inside]) == [True]  # it might be one
        assert await store.compact_once()
        assert not volume(tmp_path, 1).exists()
        assert await present(store, [inside, behind]) == [True, True]
        await store.append(later)
    await holds(tmp_path, [inside, behind, *later])
    async with opened(tmp_path) as store:
        await store.delete([inside.address])
    await holds(tmp_path, [behind, *later], [inside])


@both_classes
async def test_a_payload_does_not_make_up_for_a_record_that_has_rotted(
    tmp_path: Path, sizes: Sizes
) -> None:
    changed, same = shards_for(sizes, 1, 2)
    await fill(tmp_path, [changed, same], [trap(sizes)])
    places = offsets([changed, same])
    pieces = [embedded_shard(other_bytes(changed), HIGHEST), embedded_shard(same, HIGHEST)]
    spring(tmp_path, 1, places[2], sizes, pieces, "rotten")
    data = bytearray(volume(tmp_path).read_bytes())
    for place in places[:2]:
        data[place + HEADER_BYTES + 3] ^= 1
    volume(tmp_path).write_bytes(data)
    async with opened(tmp_path) as store:
        assert await present(store, [changed, same]) == [False, True]
        assert bad_shards(store) == [changed.address]


async def test_a_recovery_that_is_killed_hides_nothing(tmp_path: Path) -> None:
    """What is uncertain comes to the index last, and its checkpoint with it."""
    data, killed = tmp_path / "data", tmp_path / "killed"
    before, inside, behind, large = (make_shard(size) for size in (50, 40, 60, 70 * KIB))
    await fill(data, [before], [trap(SMALL)], [behind], [large])
    spring(data, 1, offsets([before])[1], SMALL, [embedded_shard(inside, HIGHEST)], "rotten")

    def kill() -> None:
        if not killed.exists():
            snapshot(data, killed)

    with armed(Point.INDEX_FLUSHED, kill):
        async with opened(data):
            pass
    await holds(killed, [before, inside, behind, large])


async def test_after_a_stretch_that_cannot_be_read_anything_may_be_payload(tmp_path: Path) -> None:
    """Longer than any record: the header that was lost may stand at its end."""
    victim, outer = make_shard(40, 1), make_shard(6000, 2)
    await fill(tmp_path, [victim], [outer])
    at = offsets([victim])[1]
    spring(tmp_path, 1, at, SMALL, [embedded_tombstone(victim.address, HIGHEST)], "rotten")
    data = volume(tmp_path).read_bytes()
    volume(tmp_path).write_bytes(data[:at] + bytes(17 * KIB * KIB) + data[at:])
    await holds(tmp_path, [victim])


async def test_numbers_behind_a_place_that_can_be_read_again_do_not_win(tmp_path: Path) -> None:
    """A tombstone is not believed while what stands before it cannot be read. What is appended
    meanwhile is later than it all the same."""
    first, back = make_shard(6000, 1), make_shard(70 * KIB, 2)
    async with opened(tmp_path) as store:
        await store.append([first])
        await store.append([back])
        await store.append([make_shard(40, seed) for seed in range(20)])
        await store.delete([back.address])
    remove_index(tmp_path / "index.db")
    disk = BadSectors()
    disk.bad.add((volume(tmp_path).name, SUPERBLOCK_BYTES))
    async with opened(tmp_path, disk=disk) as store:
        assert await present(store, [first, back]) == [False, True]
        await store.append([back])
    remove_index(tmp_path / "index.db")
    await holds(tmp_path, [first, back])


@both_classes
async def test_no_record_is_acknowledged_that_would_not_be_found_again(
    tmp_path: Path, sizes: Sizes
) -> None:
    """Should the numbers ever be used up."""
    old, *shards = shards_for(sizes, *range(6))
    await fill(tmp_path, [old])
    _append_raw(tmp_path, sizes, embedded_shard(make_shard(sizes.inner, 99), HIGHEST - 3))
    for _ in range(2):
        async with opened(tmp_path) as store:
            assert store.failure is None
    async with opened(tmp_path) as store:
        with pytest.raises(StoreReadOnly, match="sequence numbers"):
            await store.append(shards[:4])
        assert not any(await present(store, shards))
    async with opened(tmp_path) as store:
        await store.append(shards[:3])
        with pytest.raises(StoreReadOnly, match="sequence numbers"):
            await store.append(shards[3:4])
        with pytest.raises(StoreReadOnly):
            await store.delete([old.address])
    for _ in range(2):
        async with opened(tmp_path) as store:
            assert await present(store, [old, *shards]) == [True] * 4 + [False] * 2
            assert "sequence numbers" in (await store.stat()).failure
        remove_index(tmp_path / "index.db")


def _append_raw(path: Path, sizes: Sizes, record: bytes) -> None:
    size_bytes = align_up(len(record), sizes.volume_class.alignment)
    with volume(path).open("ab") as file:
        file.write(record + bytes(size_bytes - len(record)))
    remove_index(path / "index.db")


def test_the_traps_are_of_their_class() -> None:
    for sizes in (SMALL, LARGE):
        assert {VolumeClass.of(sizes.outer), VolumeClass.of(sizes.inner)} == {sizes.volume_class}

"""What a node finds when it starts again after records, superblocks or sectors have rotted."""

from pathlib import Path

import pytest

from common.record import HEADER_BYTES, shard_header, tombstone_header
from common.units import KIB, MIB
from shardd.index import remove_index
from shardd.volume import VolumeClass, volume_name
from tests.bad_sectors import BAD_PLACES, BadSectors
from tests.disks.faulty import ENOSPC, faulty
from tests.reopened import fill, offsets, opened, present, volume
from tests.stores import make_shard


@pytest.mark.parametrize("size", [30, 100 * KIB])
@pytest.mark.parametrize("part", ["header", "payload", "both"])
async def test_one_rotten_record_hides_no_other(tmp_path: Path, size: int, part: str) -> None:
    shards = [make_shard(size, seed) for seed in range(5)]
    await fill(tmp_path, shards)
    remove_index(tmp_path / "index.db")
    data = bytearray(volume(tmp_path).read_bytes())
    bad = offsets(shards)[2]
    if part != "payload":
        data[bad + 20] ^= 1
    if part != "header":
        data[bad + HEADER_BYTES + 7] ^= 1
    volume(tmp_path).write_bytes(data)
    async with opened(tmp_path) as store:
        assert await present(store, shards) == [True, True, False, True, True]
        assert volume(tmp_path).stat().st_size == len(data)
        await store.append([shards[2]])
        assert all(await present(store, shards))


@pytest.mark.parametrize("last", ["rotten", "tombstone"])
async def test_rot_after_a_tombstone_is_told_and_rot_before_it_is_not(
    tmp_path: Path, last: str
) -> None:
    """What was deleted and stored again is missed; what was deleted is not."""
    shard, others = make_shard(30, 1), [make_shard(30, seed) for seed in (2, 3)]
    async with opened(tmp_path) as store:
        await store.append(others[:1])
        if last == "rotten":
            await store.append([shard])
            await store.delete([shard.address])
        at = store._volumes.by_number[1].end
        await store.append([shard])
        if last == "tombstone":
            await store.delete([shard.address])
        await store.append(others[1:])  # or the rotten record would be a torn one
    remove_index(tmp_path / "index.db")
    data = bytearray(volume(tmp_path).read_bytes())
    data[at + HEADER_BYTES + 7] ^= 1
    volume(tmp_path).write_bytes(data)
    async with opened(tmp_path) as store:
        bad = [each.address for each in store.upkeep.quarantine.page(None, 10)]
        assert bad == ([shard.address] if last == "rotten" else [])
        assert store.upkeep.quarantine.bad_shards == len(bad)
        assert await present(store, [shard, *others]) == [False, True, True]


async def test_a_header_that_states_an_absurd_size_is_no_header(tmp_path: Path) -> None:
    shards = [make_shard(30, seed) for seed in range(2)]
    await fill(tmp_path, shards[:1])
    remove_index(tmp_path / "index.db")
    info = make_shard(17 * MIB).info
    with volume(tmp_path).open("ab") as file:
        file.write(shard_header(info, 9) + shard_header(shards[1].info, 10))
        file.write(bytes(shards[1].payload) + bytes(2))
    async with opened(tmp_path) as store:
        assert await present(store, shards) == [True, True]


async def test_a_copied_volume_inside_a_payload_buries_nothing(tmp_path: Path) -> None:
    """Someone stores a volume in the store, and the record that holds it rots or tears."""
    victim = make_shard(40, 1)
    copied = tombstone_header(victim.address, 1000)
    trap = make_shard(512, 2)
    await fill(tmp_path, [victim], [trap])
    data = bytearray(volume(tmp_path).read_bytes())
    at = offsets([victim])[1]
    data[at + HEADER_BYTES : at + HEADER_BYTES + len(copied)] = copied
    for damage in ("rotten header", "torn payload"):
        remove_index(tmp_path / "index.db")
        damaged = bytearray(data)
        if damage == "rotten header":
            damaged[at] ^= 1
        else:
            del damaged[at + HEADER_BYTES + 256 :]
        volume(tmp_path).write_bytes(damaged)
        async with opened(tmp_path) as store:
            assert await present(store, [victim]) == [True]


@pytest.mark.parametrize("inside", ["nothing", "too long for the file", "over what follows"])
async def test_what_looks_like_a_record_inside_a_lost_one_hides_nothing(
    tmp_path: Path, inside: str
) -> None:
    """Someone stores a volume in the store, and the header of the record that holds it rots."""
    trap, victims = make_shard(512, 2), [make_shard(40, seed) for seed in range(3)]
    await fill(tmp_path, [trap], victims)
    remove_index(tmp_path / "index.db")
    data = bytearray(volume(tmp_path).read_bytes())
    at = offsets([])[0]
    data[at + 20] ^= 1
    copied = make_shard(10_000 if inside == "too long for the file" else 400)
    if inside != "nothing":
        place = at + HEADER_BYTES + 64
        data[place : place + HEADER_BYTES] = shard_header(copied.info, 9)
    volume(tmp_path).write_bytes(data)
    async with opened(tmp_path) as store:
        assert await present(store, victims) == [True] * 3
        assert await present(store, [trap, copied]) == [False] * 2


async def test_after_a_torn_write_with_a_hole_deletes_hold(tmp_path: Path) -> None:
    """A power loss kept the last record of a write but not the one before it, behind which no
    tombstone is believed: what is deleted later must not come back with the index gone."""
    shards = [make_shard(600, seed) for seed in range(4)]
    await fill(tmp_path, shards[:2], shards[2:])
    remove_index(tmp_path / "index.db")
    data = bytearray(volume(tmp_path).read_bytes())
    lost = offsets(shards)[2]
    data[lost : lost + 512] = bytes(512)
    volume(tmp_path).write_bytes(data)
    async with opened(tmp_path) as store:
        assert await present(store, shards) == [True, True, False, True]
    async with opened(tmp_path) as store:
        await store.delete([shards[0].address])
        await store.append([shards[2]])
    remove_index(tmp_path / "index.db")
    async with opened(tmp_path) as store:
        assert await present(store, shards) == [False, True, True, True]
        assert len(list((tmp_path / "volumes").iterdir())) == 2
    remove_index(tmp_path / "index.db")
    async with opened(tmp_path) as store:
        await store.append([make_shard(600, 9)])
        assert len(list((tmp_path / "volumes").iterdir())) == 2  # once is enough


async def test_a_rotten_superblock_hides_no_record(tmp_path: Path) -> None:
    shards = [make_shard(size, seed) for seed in range(3) for size in (30, 100 * KIB)]
    await fill(tmp_path, shards)
    remove_index(tmp_path / "index.db")
    for number in (1, 2):
        data = bytearray(volume(tmp_path, number).read_bytes())
        data[9] ^= 1
        volume(tmp_path, number).write_bytes(data)
    async with opened(tmp_path) as store:
        assert all(await present(store, shards))
        await store.append([make_shard(40)])
        assert volume(tmp_path, 3).exists()  # nothing more goes into the rotten ones


@pytest.mark.parametrize("size", [30, 100 * KIB])
async def test_behind_a_rotten_superblock_all_is_certain(tmp_path: Path, size: int) -> None:
    """The first record says of which class the volume is: no hole is where there is none."""
    kept, back, gone = (make_shard(size, seed) for seed in range(3))
    async with opened(tmp_path) as store:
        await store.append([kept, back, gone])
        await store.delete([back.address, gone.address])
        await store.append([back])
    rotten = volume(tmp_path)  # where the shards are; large ones have their tombstones elsewhere
    data = bytearray(rotten.read_bytes())
    data[9] ^= 1
    rotten.write_bytes(data)
    remove_index(tmp_path / "index.db")
    async with opened(tmp_path) as store:
        assert await present(store, [kept, back, gone]) == [True, True, False]
        assert store.upkeep.quarantine.bad_shards == 0


@pytest.mark.parametrize("number", BAD_PLACES)
async def test_a_superblock_that_cannot_be_read_hides_no_record(
    tmp_path: Path, number: int
) -> None:
    shards = [make_shard(size, seed) for seed in range(3) for size in (30, 100 * KIB)]
    await fill(tmp_path, shards)
    disk = BadSectors(number)
    disk.bad |= {(volume_name(1), 0), (volume_name(2), 0)}
    for _ in range(2):
        async with opened(tmp_path, disk=disk) as store:
            assert all(await present(store, shards))
        remove_index(tmp_path / "index.db")


@pytest.mark.parametrize("size", [6000, 100 * KIB])
@pytest.mark.parametrize("place", ["header", "payload"])
async def test_a_tail_that_cannot_be_read_is_not_cut(tmp_path: Path, size: int, place: str) -> None:
    """It may be read again one day, and holds what was acknowledged."""
    shards = [make_shard(size, seed) for seed in range(3)]
    later = [make_shard(size, seed) for seed in range(3, 6)]
    await fill(tmp_path, shards[:1], shards[1:])
    remove_index(tmp_path / "index.db")
    disk, last = BadSectors(), offsets(shards)[-2]
    disk.bad.add((volume_name(1), (last & -4096) + (4096 if place == "payload" else 0)))
    for taken in range(2):
        async with opened(tmp_path, disk=disk) as store:
            assert await present(store, shards) == [
                True,
                place == "payload" or last % 4096 == 0,
                False,
            ]
            await store.append(later[taken : taken + 1])
    async with opened(tmp_path) as store:
        assert await present(store, [*shards, *later]) == [True] * 5 + [False]
        await store.append(later[2:])
    async with opened(tmp_path) as store:
        assert all(await present(store, [*shards, *later]))


@pytest.mark.parametrize("size", [30, 100 * KIB])
async def test_of_a_torn_record_nothing_is_told(tmp_path: Path, size: int) -> None:
    """It was never acknowledged, though its header and its length are whole."""
    old, torn = make_shard(size, 1), make_shard(size, 2)
    await fill(tmp_path, [old])
    end, span = offsets([old])[-1], VolumeClass.of(size).span(size)
    record = shard_header(torn.info, 1_000) + torn.payload[:-1]
    with volume(tmp_path).open("ab") as file:
        file.write(record + bytes(span - len(record)))
    async with opened(tmp_path) as store:
        assert await present(store, [old, torn]) == [True, False]
        assert store.upkeep.quarantine.page(None, 10) == []
        assert volume(tmp_path).stat().st_size == end


async def test_a_hole_is_seen_until_there_is_a_volume_to_write_to(tmp_path: Path) -> None:
    """While the disk is full there is none: whatever was written behind the hole, to a volume whose
    checkpoint says that all is well, would not be certain at the next start."""
    shards, later = [make_shard(30, seed) for seed in range(3)], make_shard(30, 9)
    await fill(tmp_path, shards)
    remove_index(tmp_path / "index.db")
    data = bytearray(volume(tmp_path).read_bytes())
    data[offsets(shards)[1] + 20] ^= 1
    volume(tmp_path).write_bytes(data)
    with faulty() as disk:
        disk.script("open", ENOSPC, file_name=volume_name(2))
        async with opened(tmp_path, disk=disk):
            assert not volume(tmp_path, 2).exists()
    async with opened(tmp_path) as store:
        await store.append([later])
        assert volume(tmp_path).stat().st_size == len(data)
    async with opened(tmp_path) as store:
        assert await present(store, [*shards, later]) == [True, False, True, True]


async def test_a_stray_copy_in_a_volume_of_the_other_class_is_passed_over(tmp_path: Path) -> None:
    """It could not be read from there, and must not win over the record itself."""
    small, large = make_shard(300), make_shard(100 * KIB)
    await fill(tmp_path, [small], [large])
    remove_index(tmp_path / "index.db")
    record = shard_header(small.info, 1) + small.payload
    with volume(tmp_path, 2).open("ab") as file:
        file.write(record + bytes(4096 - len(record)))
    async with opened(tmp_path) as store:
        assert await present(store, [small, large]) == [True, True]

"""Volumes that vanish under a running node, and disks that change places while it deletes one."""

from pathlib import Path

import pytest

from common.errors import StoreReadOnly, WrongNode
from common.failpoints import Point, armed
from shardd.volume import volume_name
from tests.stores import make_shard
from tests.upkeep import addresses_of, append_all, held, opened

LARGE = [make_shard(70_000, seed) for seed in range(12)]


def files(folder: Path) -> list[Path]:
    return list(folder.iterdir())


async def test_a_volume_that_is_gone_is_noticed_without_a_write(tmp_path: Path) -> None:
    """The directory is this node's, but what it has open will not outlive its process."""
    async with opened(tmp_path) as store:
        await append_all(store, LARGE)
        assert not (await store.stat()).detached
        (tmp_path / "volumes" / volume_name(1)).unlink()
        stat = await store.stat()
        assert (stat.read_only, stat.detached, stat.free_bytes) == (True, True, 0)
        with pytest.raises(StoreReadOnly, match=volume_name(1)):
            await store.append([make_shard(10)])
        assert all(await held(store, LARGE))


async def test_a_volume_that_was_compacted_is_not_missed(tmp_path: Path) -> None:
    async with opened(tmp_path) as store:
        await append_all(store, LARGE)
        await store.delete(addresses_of(LARGE[:8]))
        assert await store.compact_once()
        stat = await store.stat()
        assert (stat.read_only, stat.detached) == (False, False)


async def test_nothing_is_deleted_from_a_disk_that_is_not_ours(tmp_path: Path) -> None:
    """It holds a volume of the same number: only the path is the same."""
    here, other, aside = tmp_path / "here", tmp_path / "other", tmp_path / "aside"
    async with opened(other) as store:
        await append_all(store, LARGE)

    def swap() -> None:
        here.rename(aside)
        other.rename(here)

    async with opened(here) as store:
        await append_all(store, LARGE)
        await store.delete(addresses_of(LARGE[:8]))
        with armed(Point.COMPACT_FORGOTTEN, swap), pytest.raises(StoreReadOnly):
            await store.compact_once()
        assert store.failure is not None and "another node" in store.failure
        assert all(await held(store, LARGE[8:]))
    here.rename(other)
    async with opened(other) as store:
        assert all(await held(store, LARGE))
    async with opened(aside) as store:
        assert await held(store, LARGE) == 8 * [False] + 4 * [True]


async def test_nothing_is_set_aside_on_a_disk_that_is_not_ours(tmp_path: Path) -> None:
    """The copy would be on one disk, and the tombstone of what it copies on the other."""
    here, other, aside = tmp_path / "here", tmp_path / "other", tmp_path / "aside"
    small = [make_shard(500, seed) for seed in range(2)]  # their tombstones need no new volume
    async with opened(other):
        pass
    async with opened(here) as store:
        await append_all(store, small)
        here.rename(aside)
        other.rename(here)
        with pytest.raises(WrongNode):
            await store.upkeep.quarantine.set_aside(addresses_of(small[:1]))
        assert all(await held(store, small))
    assert [files(each / "quarantine") for each in (here, aside)] == [[], []]

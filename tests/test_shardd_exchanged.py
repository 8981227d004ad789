"""Directories that are exchanged under running nodes, whatever the instant: nothing is written into
the other one's, nothing of it is told as ours, and what was acknowledged is there afterwards."""

import os
import shutil
import threading
from collections.abc import Callable
from contextlib import closing, suppress
from pathlib import Path

import pytest

from common.errors import SixfoldError, StoreReadOnly
from common.framing import LARGE_PAYLOAD_BYTES
from common.units import KIB
from shardd.disk import RealDisk
from shardd.identity import DataDirectory
from shardd.store import VolumeStore
from tests.reopened import opened
from tests.stores import exchange, make_shard
from tests.upkeep import SMALL_VOLUMES, addresses_of, held

SIZES = pytest.mark.parametrize("size_bytes", [100, LARGE_PAYLOAD_BYTES])


class ExchangedBefore(RealDisk):
    """The directory is exchanged for another in the instant before a call, once it is armed."""

    def __init__(self, here: Path, there: Path, call: str, name: str) -> None:
        """`call` is open, for a new file, or unlink; `name` what the file's begins with."""
        self._here, self._there, self._call, self._name = here, there, call, name
        self.armed = False

    def _now(self, call: str, path: Path) -> None:
        if self.armed and call == self._call and path.name.startswith(self._name):
            self.armed = False
            exchange(self._here, self._there)

    def open(self, path: Path, flags: int) -> int:
        if flags & os.O_CREAT:
            self._now("open", path)
        return super().open(path, flags)

    def unlink(self, path: Path) -> None:
        self._now("unlink", path)
        super().unlink(path)


class ExchangedWhileRecovering(RealDisk):
    """When recovery is about to read the first volume."""

    def __init__(self, here: Path, there: Path) -> None:
        self._here, self._there, self._opens = here, there, 0

    def open(self, path: Path, flags: int) -> int:
        if path.name == "00000001.vol":
            self._opens += 1
            if self._opens == 4:  # size, superblock, the volume, recovery
                exchange(self._here, self._there)
        return super().open(path, flags)


class LookedAtWhileSyncing(RealDisk):
    """Another thread looks at the disk before a directory is synced."""

    look: Callable[[], object] | None = None

    def fsync_dir(self, path: Path) -> None:
        if self.look is not None:
            look, self.look = self.look, None
            thread = threading.Thread(target=look)
            thread.start()
            thread.join(0.2)  # it may have to wait until we are done
        super().fsync_dir(path)


def files_in(path: Path) -> dict[str, bytes]:
    """All but the index, a cache."""
    files = [file for file in path.rglob("*") if file.is_file()]
    return {str(f.relative_to(path)): f.read_bytes() for f in files if "index" not in f.name}


def index_of(path: Path) -> list[str]:
    return sorted(file.name for file in path.glob("index.db*"))


async def node_with(path: Path, *seeds: int, size_bytes: int = 100) -> None:
    async with opened(path) as store:
        await store.append([make_shard(size_bytes, seed) for seed in seeds])


@pytest.fixture
def here(tmp_path: Path) -> Path:
    return tmp_path / "here"


@pytest.fixture
def there(tmp_path: Path) -> Path:
    return tmp_path / "there"


@SIZES
async def test_a_volume_of_before_the_start_is_not_looked_for_elsewhere(
    here: Path, there: Path, size_bytes: int
) -> None:
    for path in (here, there):
        await node_with(path, 1, size_bytes=size_bytes)
    before, late = files_in(there), make_shard(size_bytes, 2)
    async with opened(here) as store:
        exchange(here, there)
        await store.append([late])  # its own file, wherever that is now
        assert (await store.stat()).detached
        with pytest.raises(StoreReadOnly):
            await store.append([make_shard(size_bytes, 3)])
        exchange(here, there)
    assert files_in(there) == before
    async with opened(here) as store:
        assert await held(store, [late]) == [True]


@SIZES
async def test_a_volume_that_is_begun_in_that_instant_is_ones_own(
    here: Path, there: Path, size_bytes: int
) -> None:
    await node_with(there, 1)
    before, late = files_in(there), make_shard(size_bytes, 2)
    disk = ExchangedBefore(here, there, "open", "00000001.vol")
    disk.armed = True
    async with opened(here, disk=disk) as store:
        await store.append([late])
        assert not disk.armed
        assert (await store.stat()).detached
    exchange(here, there)
    assert files_in(there) == before
    async with opened(here) as store:
        assert await held(store, [late]) == [True]


async def test_what_is_refused_leaves_no_trace(here: Path, there: Path) -> None:
    """One write for two volumes: one is open, the other cannot be begun any more."""
    for path in (here, there):
        await node_with(path, 1)
    before = files_in(here), files_in(there)
    async with opened(here) as store:
        exchange(here, there)
        with pytest.raises(StoreReadOnly, match="another node"):
            await store.append([make_shard(100, 2), make_shard(LARGE_PAYLOAD_BYTES, 3)])
        exchange(here, there)
    assert (files_in(here), files_in(there)) == before


async def test_a_copy_of_the_directory_is_not_the_directory(here: Path, tmp_path: Path) -> None:
    """The data was copied to another disk, which takes the old one's place under the node."""
    copy = tmp_path / "copy"
    async with opened(here) as store:
        await store.append([make_shard(100, 1)])
        shutil.copytree(here, copy)
        exchange(here, copy)
        stat = await store.stat()
        assert stat.detached
        assert "is not the directory that was opened" in stat.failure
        with pytest.raises(StoreReadOnly):
            await store.append([make_shard(100, 2)])


async def test_compaction_leaves_a_copy_alone(here: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shards = [make_shard(30 * KIB, seed) for seed in range(12)]
    async with opened(here, limits=SMALL_VOLUMES) as store:
        for shard in shards:
            await store.append([shard])
        shutil.copytree(here, copy)
        exchange(here, copy)
        await store.delete(addresses_of(shards[2:8]))
        with suppress(SixfoldError):
            await store.compact_once()
    async with opened(here) as store:
        assert all(await held(store, shards[:2]))


async def test_the_folders_of_volumes_alone_are_exchanged(here: Path, there: Path) -> None:
    """Disks that are mounted on volumes/: node.json and the names of the files are as before."""
    for path in (here, there):
        await node_with(path, 1)
    before = files_in(there)
    async with opened(here, limits=SMALL_VOLUMES) as store:
        await store.append([make_shard(100, 2)])
        exchange(here / "volumes", there / "volumes")
        assert (await store.stat()).detached
        with pytest.raises(StoreReadOnly):
            await store.append([make_shard(30 * KIB, 3)])
        exchange(here / "volumes", there / "volumes")
    assert files_in(there) == before


async def test_scrub_tells_nothing_of_what_is_not_its_own(here: Path, there: Path) -> None:
    await node_with(there, *range(100, 130))
    mine = [make_shard(100, seed) for seed in range(10)]
    async with opened(here) as store:
        await store.append(mine)
        exchange(here, there)
        assert (await store.stat()).detached
        store.upkeep.scrubber.start()
        with suppress(OSError, SixfoldError):
            for _ in range(20):
                if not await store.scrub_once():
                    break
        exchange(here, there)
        assert all(await held(store, mine))
        assert not store.upkeep.quarantine.page(None, 100)


async def test_compaction_removes_nobody_elses_volume(here: Path, there: Path) -> None:
    await node_with(there, 1)
    before, mine = files_in(there), make_shard(100, 2)
    disk = ExchangedBefore(here, there, "unlink", "00000001.vol")
    async with opened(here, disk=disk) as store:
        await store.append([mine])
        await store.delete([mine.address])
        disk.armed = True
        with suppress(SixfoldError):
            await store.compact_once()
        assert not disk.armed
        exchange(here, there)
    assert files_in(there) == before


async def test_the_epoch_is_noted_in_nobody_elses_identity(here: Path, there: Path) -> None:
    await node_with(there, 1)
    before = files_in(there)
    disk = ExchangedBefore(here, there, "open", "node.json")
    with closing(DataDirectory(here, disk=disk)) as directory:
        disk.armed = True
        directory.note_epoch(7)
        assert not disk.armed
    exchange(here, there)
    assert files_in(there) == before
    with closing(DataDirectory(here)) as directory:
        assert directory.identity.epoch == 7


async def test_an_orphan_is_set_aside_in_ones_own_quarantine(here: Path, there: Path) -> None:
    DataDirectory(there).close()
    orphan = make_shard(100, 2)
    disk = ExchangedBefore(here, there, "open", str(orphan.address))
    async with opened(here, disk=disk) as store:
        await store.append([orphan])
        disk.armed = True
        with suppress(SixfoldError):
            await store.upkeep.quarantine.set_aside([orphan.address])
        assert not disk.armed
        exchange(here, there)
    assert not list((there / "quarantine").iterdir())


@pytest.mark.parametrize("size_bytes", [100, 200])
async def test_recovery_reads_its_own_volumes(here: Path, there: Path, size_bytes: int) -> None:
    """Exchanged during the start, put right, and started again: it finds what it has."""
    await node_with(there, *range(10, 14), size_bytes=size_bytes)
    await node_with(here, *range(4))
    for name in ("index.db", "index.db-sum"):
        (here / name).unlink()
    with pytest.raises(SixfoldError, match="another node"):
        async with opened(here, disk=ExchangedWhileRecovering(here, there)):
            pass
    exchange(here, there)
    async with opened(here) as store:
        assert all(await held(store, [make_shard(100, seed) for seed in range(4)]))


async def test_a_bad_index_is_not_removed_elsewhere(here: Path, there: Path) -> None:
    await node_with(there, 1)
    before = index_of(there)
    async with opened(here) as store:
        await store.append([make_shard(100, 2)])
        exchange(here, there)
        store._catalog._file.damage = "damaged"  # as SQLite's word for it sets it
    exchange(here, there)
    assert index_of(there) == before


async def test_a_look_at_the_disk_while_it_joins_is_no_alarm(here: Path) -> None:
    disk = LookedAtWhileSyncing()
    with closing(DataDirectory(here, disk=disk)) as directory:
        store = await VolumeStore.open(directory, disk=disk)
        disk.look = store._room.look
        directory.join("c1" * 16, 3)
        await store.stat()
        assert store.failure is None
        await store.close()

"""A node that has no descriptor left, or no memory, for a moment: it refuses what it cannot do now,
and goes on as soon as it can. Strangers who open connections must not end its writing for good."""

import errno
import mmap
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from dataclasses import replace
from pathlib import Path

import pytest

from common.errors import Unavailable
from common.units import MIB
from shardd import verify
from shardd.disk import Disk, RealDisk
from shardd.identity import DataDirectory
from shardd.store import StoreLimits, VolumeStore
from tests.disks.faulty import Fails, faulty
from tests.flips import flip_one, live_entries
from tests.stores import make_shard
from tests.test_shardd_disk_faults import LIMITS, Told, count_calls
from tests.upkeep import SMALL_VOLUMES, addresses_of, check, compact_all, shards_of, volume_files

SHORTAGES = [Fails(errno.EMFILE), Fails(errno.ENFILE)]


@asynccontextmanager
async def opened(
    path: Path, disk: Disk, limits: StoreLimits = SMALL_VOLUMES
) -> AsyncIterator[VolumeStore]:
    """`node.json` lies on that disk too."""
    with closing(DataDirectory(path, disk=disk)) as directory:
        store = await VolumeStore.open(directory, limits, disk)
        yield store
        await store.close()


class Strangled(RealDisk):
    """Opens nothing while there is a shortage."""

    number = 0

    def open(self, path: Path, flags: int) -> int:
        self._try()
        return super().open(path, flags)

    def names(self, path: Path) -> list[str]:
        self._try()
        return super().names(path)

    def fsync_dir(self, path: Path) -> None:
        self._try()
        super().fsync_dir(path)

    def _try(self) -> None:
        if self.number:
            raise OSError(self.number, "planned")


@pytest.mark.parametrize("shortage", SHORTAGES, ids=["EMFILE", "ENFILE"])
@pytest.mark.parametrize("method", ["open", "fsync_dir"])
async def test_a_shortage_refuses_one_call_and_keeps_nothing_of_it(
    tmp_path: Path, method: str, shortage: Fails
) -> None:
    for at in range(1, await count_calls(tmp_path / "dry", method) + 1):
        path, told = tmp_path / str(at), Told()
        with faulty() as disk:
            async with opened(path, disk, LIMITS) as store:
                disk.script(method, shortage, at)
                await told.run(store)
                assert [type(error) for error in told.errors] == [Unavailable]
                assert store.failure is None
                await told.check(store)
        await told.check_anew(path)


@pytest.mark.parametrize("number", [errno.EMFILE, errno.ENFILE, errno.ENOMEM])
async def test_a_node_in_want_reports_and_recovers(tmp_path: Path, number: int) -> None:
    disk, shards = Strangled(), shards_of(range(8))
    async with opened(tmp_path, disk) as store:
        await store.append(shards[:4])
        free_bytes = (await store.stat()).free_bytes
        disk.number = number
        stat = await store.stat()
        assert (stat.failure, stat.detached, stat.shards) == ("", False, 4)
        assert stat.free_bytes > free_bytes // 2
        await store.append(shards[4:6])  # what is open is open
        disk.number = 0
        await store.append(shards[6:])
        await check(store, shards, [])


async def test_upkeep_outlasts_a_shortage(tmp_path: Path) -> None:
    disk, shards = Strangled(), shards_of(range(40))
    async with opened(tmp_path, disk) as store:
        for shard in shards:
            await store.append([shard])
        flip_one(store, live_entries(store)[0], 130)
        await store.delete(addresses_of(shards[10:30]))
        disk.number = errno.EMFILE
        for step in (store.compact_once, store.scrub_once):
            for _ in range(3):
                with pytest.raises((Unavailable, OSError)):
                    await step()
        with pytest.raises((Unavailable, OSError)):
            await store.upkeep.quarantine.set_aside(addresses_of(shards[:1]))
        assert store.failure is None
        disk.number = 0
        assert await compact_all(store)
        while await store.scrub_once():
            pass
        assert store.upkeep.quarantine.bad_shards == 1
        await store.append([make_shard(70_000, 99)])


def descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


async def test_a_shortage_of_memory_costs_no_descriptors(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_memory(_: int) -> mmap.mmap:
        raise OSError(errno.ENOMEM, "planned")

    with faulty() as disk:
        async with opened(tmp_path, disk) as store:
            await store.append([make_shard(500)])
            store._catalog.flush()
            store.upkeep.scrubber.start()
            before = descriptors()
            monkeypatch.setattr(verify, "aligned", no_memory)
            for _ in range(20):
                with pytest.raises(OSError):
                    await store.scrub_once()
            assert descriptors() < before + 20
            monkeypatch.undo()
            assert await store.scrub_once()


async def test_a_shortage_while_the_node_looks_at_its_room_says_nothing_of_the_disk(
    tmp_path: Path,
) -> None:
    with faulty() as disk:
        async with opened(tmp_path, disk, replace(SMALL_VOLUMES, capacity_bytes=64 * MIB)) as store:
            await store.append([make_shard(500)])
            before = await store.stat()
            assert before.free_bytes > 0
            disk.script("space", Fails(errno.ENOMEM))
            assert await store.stat() == before
            assert store.failure is None
            disk.script("space", Fails(errno.EIO))
            assert "Input/output error" in (await store.stat()).failure


@pytest.mark.parametrize(
    ("method", "at"), [*(("open", at) for at in range(1, 7)), ("fsync_dir", 1), ("fsync_dir", 2)]
)
async def test_a_shortage_in_the_middle_of_compaction_ends_nothing(
    tmp_path: Path, method: str, at: int
) -> None:
    shards = shards_of(range(40))
    with faulty() as disk:
        async with opened(tmp_path, disk) as store:
            for shard in shards:
                await store.append([shard])
            await store.delete(addresses_of(shards[10:30]))
            disk.script(method, SHORTAGES[0], at)
            with pytest.raises((Unavailable, OSError)):
                await compact_all(store)
            assert store.failure is None
            await compact_all(store)
            there = {volume.path for volume in store._volumes.by_number.values()}
            assert set(volume_files(tmp_path)) == there
            await check(store, shards[:10] + shards[30:], shards[10:30])

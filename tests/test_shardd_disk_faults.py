"""A node whose disk fails at one call, whichever that is: nothing that was acknowledged is lost,
nothing is acknowledged that might be, and what was refused leaves no trace."""

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import pytest

from common.errors import SixfoldError, StorageFull, StoreReadOnly
from common.ids import ShardAddress
from common.shards import ShardRecord
from common.units import KIB
from common.wire import FrameKind, LaneKind, unpack_error
from shardd.disk import Disk
from shardd.identity import DataDirectory
from shardd.index import remove_index
from shardd.store import StoreLimits, VolumeStore
from tests.disks.faulty import EIO, ENOSPC, Fails, Fault, Short, Torn, faulty
from tests.disks.recording import RecordingDisk
from tests.lane_client import open_lane
from tests.stores import make_shard, served_node

LIMITS = StoreLimits(reserve_bytes=0, volume_bytes=160 * KIB)
SYNCS = ("fsync", "fdatasync", "fsync_dir")
SMALL, LARGE = [make_shard(3000, s) for s in range(9)], [make_shard(70_000, s) for s in range(9)]
ROLL = [make_shard(53 * KIB, seed) for seed in range(3)]
# What is appended, or, if it is an address, deleted, by one call each.
CALLS: list[list[ShardRecord] | ShardAddress] = [
    SMALL[:1], LARGE[:1], [SMALL[1], LARGE[1], SMALL[2]], SMALL[0].address, ROLL, LARGE[0].address,
    [SMALL[3], LARGE[2]], SMALL[3].address, SMALL[4:6],
]  # fmt: skip


@asynccontextmanager
async def opened(path: Path, disk: Disk | None = None) -> AsyncIterator[VolumeStore]:
    directory = DataDirectory(path)
    try:
        store = await VolumeStore.open(directory, LIMITS, disk)
        yield store
        await store.close()
    finally:
        directory.close()


class Told:
    """What a client was told."""

    def __init__(self) -> None:
        self.there: dict[ShardAddress, ShardRecord] = {}
        self.gone: set[ShardAddress] = set()
        self.begun: set[ShardAddress] = set()  # deletes that were refused
        self.refused: list[ShardRecord] = []
        self.errors: list[SixfoldError] = []

    async def run(self, store: VolumeStore) -> None:
        """All the calls."""
        for call in CALLS:
            try:
                if isinstance(call, ShardAddress):
                    await store.delete([call])
                    self.there.pop(call, None)
                    self.gone.add(call)
                else:
                    await store.append(call)
                    self.there.update({shard.address: shard for shard in call})
            except SixfoldError as error:
                self.errors.append(error)
                if isinstance(call, ShardAddress):
                    self.begun.add(call)
                else:
                    self.refused += call

    async def check(self, store: VolumeStore, no_trace: bool = True) -> None:
        """`no_trace`: of what was refused."""
        surely = self.there if no_trace else self.there.keys() - self.begun
        for address in surely:
            assert await read(store, address) == self.there[address].payload
        for address in self.gone:
            assert await read(store, address) is None
        for shard in self.refused:
            assert await read(store, shard.address) in (None, shard.payload)
        listed = {info.address async for info in store.list()}
        if no_trace:
            assert listed == self.there.keys()

    async def check_anew(self, path: Path, no_trace: bool = True) -> None:
        """After a restart, with the index and without; and the store takes writes again."""
        for _ in range(2):
            async with opened(path) as store:
                await self.check(store, no_trace)
            remove_index(path / "index.db")
        async with opened(path) as store:
            await store.append([SMALL[8], LARGE[8]])
            assert await read(store, SMALL[8].address) == SMALL[8].payload


async def read(store: VolumeStore, address: ShardAddress) -> bytes | None:
    (found,) = await store.read([address])
    return bytes(found.payload) if isinstance(found, ShardRecord) else None


async def count_calls(path: Path, method: str) -> int:
    """How often the calls above come to it."""
    disk = RecordingDisk()
    async with opened(path, disk) as store:
        before = disk.count([method])
        told = Told()
        await told.run(store)
        assert not told.errors
        return disk.count([method]) - before


@pytest.mark.parametrize("fault", [EIO, ENOSPC], ids=["EIO", "ENOSPC"])
@pytest.mark.parametrize("method", SYNCS)
async def test_a_sync_that_fails_once_is_final(tmp_path: Path, method: str, fault: Fails) -> None:
    times = await count_calls(tmp_path / "dry", method)
    assert times
    for at in range(1, times + 1):
        recording, path, told = RecordingDisk(), tmp_path / str(at), Told()
        with faulty(recording) as disk:
            async with opened(path, disk) as store:
                disk.script(method, fault, at)
                await told.run(store)
                assert {type(error) for error in told.errors} == {StoreReadOnly}
                assert store.failure is not None
                assert (await store.stat()).read_only
                synced = recording.count(SYNCS)
                await (later := Told()).run(store)
                assert (later.there, later.gone) == ({}, set())  # not one is acknowledged
                assert recording.count(SYNCS) == synced  # nor is a sync tried again
                await told.check(store)
        await told.check_anew(path, no_trace=False)


@pytest.mark.parametrize("fault", [ENOSPC, Short(1), Short(4096), Short(1_000_000)], ids=str)
async def test_a_full_disk_refuses_one_call_and_keeps_nothing_of_it(
    tmp_path: Path, fault: Fault
) -> None:
    for at in range(1, await count_calls(tmp_path / "dry", "pwritev") + 1):
        path, told = tmp_path / str(at), Told()
        with faulty() as disk:
            async with opened(path, disk) as store:
                disk.script("pwritev", fault, at)
                await told.run(store)
                assert [type(error) for error in told.errors] == [StorageFull]
                assert store.failure is None
                await told.check(store)
        await told.check_anew(path)


@pytest.mark.parametrize("sectors", [(), (0,), (1, 2), tuple(range(400))], ids=str)
async def test_a_torn_write_ends_writing_and_is_taken_back(
    tmp_path: Path, sectors: tuple[int, ...]
) -> None:
    for at in range(1, await count_calls(tmp_path / "dry", "pwritev") + 1):
        path, told = tmp_path / str(at), Told()
        with faulty() as disk:
            async with opened(path, disk) as store:
                disk.script("pwritev", Torn(sectors), at)
                await told.run(store)
                assert {type(error) for error in told.errors} == {StoreReadOnly}
                await told.check(store)
        await told.check_anew(path)


async def test_a_full_disk_still_deletes(tmp_path: Path) -> None:
    """As long as the tombstone itself can be written."""
    with faulty() as disk:
        async with opened(tmp_path, disk) as store:
            await store.append([SMALL[0], LARGE[0]])
            for shards in (SMALL[1:2], LARGE[1:2]):
                disk.script("pwritev", ENOSPC)
                with pytest.raises(StorageFull):
                    await store.append(shards)
                await store.delete([shards[0].address, SMALL[0].address])
            assert await read(store, SMALL[0].address) is None
            assert await read(store, LARGE[0].address) == LARGE[0].payload


async def test_a_cut_that_fails_keeps_no_other_from_being_cut(tmp_path: Path) -> None:
    with faulty() as disk:
        async with opened(tmp_path, disk) as store:
            await store.append([SMALL[0], LARGE[0]])
            large = tmp_path / "volumes" / "00000002.vol"
            size_bytes = large.stat().st_size
            disk.script("pwritev", Torn(tuple(range(400))), at=2)
            disk.script("truncate", EIO)
            with pytest.raises(StoreReadOnly):
                await store.append([SMALL[1], LARGE[1]])
            assert large.stat().st_size == size_bytes


async def test_a_node_says_that_it_cannot_write(tmp_path: Path) -> None:
    with faulty() as disk:
        async with served_node(tmp_path, disk=disk) as node:
            node.http.joined = True
            writer = await open_lane(node, LaneKind.WRITE)
            reader = await open_lane(node, LaneKind.READ)
            async with aiohttp.ClientSession(node.http_url) as http:
                writer.append(1, SMALL[0])
                assert (await writer.next())[:2] == (FrameKind.OK, 1)
                async with http.get("/-/ready") as answer:
                    assert answer.status == 200
                disk.script("fdatasync", EIO)
                for request in range(2, 60):
                    writer.append(request, SMALL[1] if request % 2 else LARGE[1])
                writer.delete(60, SMALL[0].address)
                for _ in range(2, 61):
                    kind, _, meta, _ = await writer.next()
                    assert kind == FrameKind.ERROR
                    assert isinstance(unpack_error(meta), StoreReadOnly)
                async with http.get("/-/ready") as answer:
                    assert answer.status == 503
                    said = await answer.json()
                assert (said["ready"], said["read_only"]) == (False, True)
                assert "fsync failed" in said["failure"]
                reader.send(FrameKind.READ, 1, SMALL[0].address.key)
                assert (await reader.next())[3] == SMALL[0].payload
            for client in (writer, reader):
                client.transport.close()


@pytest.mark.parametrize("method", ["fsync_dir", "fdatasync", "truncate"])
async def test_a_disk_that_cannot_sync_at_the_start_is_read_and_not_written(
    tmp_path: Path, method: str
) -> None:
    async with opened(tmp_path) as store:
        await store.append([SMALL[0]])
    with (tmp_path / "volumes" / "00000001.vol").open("ab") as file:
        file.write(b"torn")
    with faulty() as disk:
        disk.script(method, EIO)
        async with opened(tmp_path, disk) as store:
            assert store.failure is not None and "recovery failed" in store.failure
            assert await read(store, SMALL[0].address) == SMALL[0].payload
            for work in (store.append([SMALL[1]]), store.delete([SMALL[0].address])):
                with pytest.raises(StoreReadOnly):
                    await work
    async with opened(tmp_path) as store:
        await store.append([SMALL[1]])
        assert await read(store, SMALL[1].address) == SMALL[1].payload


# The order of things, recorded


async def test_nothing_is_answered_before_it_is_durable(tmp_path: Path) -> None:
    disk = RecordingDisk()
    async with opened(tmp_path, disk) as store:
        disk.calls.clear()
        for shards in ([SMALL[0]], [SMALL[1], LARGE[0]]):
            await store.append(shards)
            disk.mark("answer")
        await store.delete([SMALL[0].address])
        disk.mark("answer")
        assert disk.changes("answer") == list(expected_order())


def expected_order() -> Iterator[str]:
    small, large = "00000001.vol", "00000002.vol"
    created = ("pwritev {0}", "fsync {0}", "fsync_dir volumes")
    yield from (step.format(small) for step in created)
    yield from (f"pwritev {small}", f"fdatasync {small}", "answer")
    yield f"pwritev {small}"
    yield from (step.format(large) for step in created)
    yield from (f"pwritev {large}", f"fdatasync {small}", f"fdatasync {large}", "answer")
    yield from (f"pwritev {small}", f"fdatasync {small}", "answer")


async def test_what_is_set_aside_is_durable_before_its_tombstone(tmp_path: Path) -> None:
    """Else neither the record nor its copy might outlive a power loss."""
    disk = RecordingDisk()
    async with opened(tmp_path, disk) as store:
        await store.append(SMALL[:3])
        _flip(tmp_path / "volumes" / "00000001.vol", 4096 + 200)
        disk.calls.clear()
        await store.upkeep.quarantine.set_aside([SMALL[1].address])
        (orphan,) = (tmp_path / "quarantine").iterdir()
        assert disk.changes() == _set_aside_as(orphan.name)
        disk.calls.clear()
        while not store.upkeep.quarantine.bad_shards:
            await store.scrub_once()
        (rotten,) = set((tmp_path / "quarantine").iterdir()) - {orphan}
        steps = [step for step in disk.changes() if "scrub.json" not in step]
        assert "".join(_set_aside_as(rotten.name)) in "".join(steps)
        disk.calls.clear()
        await store.upkeep.quarantine.drop(SMALL[1].address)
        assert disk.changes() == [f"unlink {orphan.name}", "fsync_dir quarantine"]


def _set_aside_as(name: str) -> list[str]:
    file = [f"pwritev {name}", f"fsync {name}", "fsync_dir quarantine"]
    return [*file, "pwritev 00000001.vol", "fdatasync 00000001.vol"]


def _flip(path: Path, at: int) -> None:
    with path.open("r+b") as file:
        file.seek(at)
        (old,) = file.read(1)
        file.seek(at)
        file.write(bytes([old ^ 1]))


async def test_a_volume_goes_durably(tmp_path: Path) -> None:
    """It would come back without the tombstones that compaction has dropped since."""
    disk = RecordingDisk()
    async with opened(tmp_path, disk) as store:
        await store.append(LARGE[:2])
        await store.delete([shard.address for shard in LARGE[:2]])
        disk.calls.clear()
        assert await store.compact_once()
        assert disk.changes()[-2:] == ["unlink 00000001.vol", "fsync_dir volumes"]


async def test_what_was_refused_is_cut_off_durably(tmp_path: Path) -> None:
    recording = RecordingDisk()
    with faulty(recording) as disk:
        async with opened(tmp_path, disk) as store:
            await store.append(SMALL[:1])
            recording.calls.clear()
            disk.script("pwritev", Short(1))
            with pytest.raises(StorageFull):
                await store.append(SMALL[1:2])
            recording.mark("answer")
            cut = ["truncate 00000001.vol", "fdatasync 00000001.vol", "answer"]
            assert recording.changes("answer")[-3:] == cut

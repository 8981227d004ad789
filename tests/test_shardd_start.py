"""What a node finds at its start that cannot be opened or written: it starts, and says so."""

import errno
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path

import pytest

from common.errors import Corrupt, StoreReadOnly, Unavailable
from common.wire import FrameKind, LaneKind
from shardd.disk import RealDisk
from shardd.index import remove_index
from shardd.store import VolumeStore
from tests.bad_sectors import BAD_PLACES
from tests.lane_client import open_lane
from tests.skipping import where_it_can_run
from tests.stores import make_shard, served_node
from tests.torture.mounts import call, mounted_over
from tests.upkeep import addresses_of, append_all, check, opened, shards_of, volume_files

Trouble = Callable[[Path], AbstractContextManager[None]]
SHARDS = shards_of(range(24))


class Unopenable(RealDisk):
    """Does not open the files whose paths hold `part`."""

    def __init__(self, part: str, number: int) -> None:
        self._part, self._number = part, number

    def open(self, path: Path, flags: int) -> int:
        if self._part in str(path):
            raise OSError(self._number, "planned")
        return super().open(path, flags)


async def fill(path: Path) -> None:
    async with opened(path) as store:
        await append_all(store, SHARDS)


async def check_read_only(store: VolumeStore, reason: str) -> None:
    assert store.failure is not None and reason in store.failure
    assert reason in (await store.stat()).failure
    with pytest.raises(StoreReadOnly):
        await store.append(SHARDS[:1])
    with pytest.raises(StoreReadOnly):
        await store.delete(addresses_of(SHARDS[-1:]))
    for _ in range(100):
        if not await store.scrub_once():
            break
    else:
        raise AssertionError("scrub does not come to an end")


@pytest.mark.parametrize("number", BAD_PLACES)
async def test_a_file_in_quarantine_that_cannot_be_opened(tmp_path: Path, number: int) -> None:
    await fill(tmp_path)
    async with opened(tmp_path) as store:
        await store.upkeep.quarantine.set_aside(addresses_of(SHARDS[:2]))
    async with opened(tmp_path, disk=Unopenable("/quarantine/", number)) as store:
        assert len(store.upkeep.quarantine.page(None, 10)) == 2
        assert await store.upkeep.quarantine.restore(addresses_of(SHARDS[:2])) == 0
        await store.append(SHARDS[:1])
    async with opened(tmp_path) as store:
        assert await store.upkeep.quarantine.restore(addresses_of(SHARDS[:2])) == 1
        await check(store, SHARDS, [])


@pytest.mark.parametrize("keep_index", [True, False])
@pytest.mark.parametrize("number", BAD_PLACES)
async def test_a_volume_that_cannot_be_opened(
    tmp_path: Path, number: int, keep_index: bool
) -> None:
    await fill(tmp_path)
    volumes = volume_files(tmp_path)
    assert len(volumes) > 2
    if not keep_index:
        remove_index(tmp_path / "index.db")
    disk = Unopenable(volumes[1].name, number)
    for _ in range(2):
        async with opened(tmp_path, disk=disk) as store:
            await check_read_only(store, f"{volumes[1].name} cannot be opened")
    async with opened(tmp_path) as store:
        assert store.failure is None
        await check(store, SHARDS, [])


async def test_what_may_be_in_a_volume_that_cannot_be_opened_is_not_absent(tmp_path: Path) -> None:
    """Neither over a lane nor by HTTP: the coordinator would take that for a loss."""
    await fill(tmp_path)
    disk = Unopenable(volume_files(tmp_path)[1].name, errno.EIO)
    for _ in range(2):
        async with served_node(tmp_path, disk=disk) as node:
            lane = await open_lane(node, LaneKind.READ)
            for request, shard in enumerate([*SHARDS, make_shard(40, 99)], 1):
                lane.send(FrameKind.READ, request, shard.address.key)
            kinds = Counter(frame[0] for frame in (await lane.answers(len(SHARDS) + 1)).values())
            assert set(kinds) == {FrameKind.RECORD, FrameKind.ERROR}
            lane.transport.close()
            for shard in [*SHARDS, make_shard(40, 99)]:
                with suppress(Corrupt, Unavailable):
                    assert await node.store.read_raw(shard.address.key) is not None
        remove_index(tmp_path / "index.db")


async def test_a_volume_that_may_not_be_opened_is_no_bad_place(tmp_path: Path) -> None:
    await fill(tmp_path)
    with pytest.raises(PermissionError):
        async with opened(tmp_path, disk=Unopenable("00000002.vol", errno.EACCES)):
            pass


async def test_an_index_that_cannot_be_written(tmp_path: Path) -> None:
    """All is read into memory, and served from there."""
    await fill(tmp_path)
    remove_index(tmp_path / "index.db")
    (tmp_path / "index.db").mkdir()
    for _ in range(2):
        async with opened(tmp_path) as store:
            await check(store, SHARDS, [])
            await check_read_only(store, "the index cannot be written")
    (tmp_path / "index.db").rmdir()
    async with opened(tmp_path) as store:
        assert store.failure is None
        await check(store, SHARDS, [])
        await store.delete(addresses_of(SHARDS[:1]))


@contextmanager
def full(path: Path) -> Iterator[None]:
    """Somebody else has written until there was no room."""
    with (path / "fill").open("wb", 0) as file, pytest.raises(OSError, match="No space"):
        while True:
            if file.write(bytes(4096)) < 4096:
                file.write(bytes(4096))
    yield
    (path / "fill").unlink()


@contextmanager
def read_only(path: Path) -> Iterator[None]:
    call("mount", "-o", "remount,ro", str(path))
    yield
    call("mount", "-o", "remount,rw", str(path))


@pytest.fixture
def filesystem(tmp_path: Path) -> Iterator[Path]:
    with where_it_can_run(), mounted_over(tmp_path):
        yield tmp_path


@pytest.mark.parametrize("in_trouble", [full, read_only])
async def test_a_filesystem_that_takes_nothing(filesystem: Path, in_trouble: Trouble) -> None:
    path = filesystem / "node"
    await fill(path)
    with in_trouble(filesystem):
        for _ in range(2):
            async with opened(path) as store:
                await check(store, SHARDS, [])
                with pytest.raises(StoreReadOnly):
                    await store.append(SHARDS[:1])
    async with opened(path) as store:
        await check(store, SHARDS, [])
        await store.append(SHARDS[:1])

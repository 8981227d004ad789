"""A node's store to break and to look after: opening it, what it holds, what it takes on disk."""

import os
import shutil
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractAsyncContextManager
from pathlib import Path

from common.ids import ShardAddress
from common.shards import ShardRecord
from common.units import GIB, KIB
from shardd.disk import Disk
from shardd.index import remove_index
from shardd.store import StoreLimits, VolumeStore
from shardd.throttle import Clocks
from shardd.upkeep import UpkeepLimits
from tests import reopened
from tests.stores import make_shard


class NodeTime:
    """What the clocks of a node's machine say. `error_s` is how wrong its time of day is."""

    def __init__(self, true_s: float = 1_000_000.0, error_s: float = 0.0) -> None:
        self.true_s, self.error_s = true_s, error_s
        self.restart()

    def restart(self) -> None:
        """Its monotonic clock begins anew, wherever."""
        self._boot, self._booted_s = os.urandom(8).hex(), self.true_s

    @property
    def clocks(self) -> Clocks:
        return Clocks(
            wall_s=lambda: self.true_s + self.error_s,
            steady_s=lambda: 100.0 + self.true_s - self._booted_s,
            boot=lambda: self._boot,
        )


FAST = UpkeepLimits(compact_bytes_per_s=100 * GIB)
SMALL_VOLUMES = StoreLimits(volume_bytes=256 * KIB, reserve_bytes=256 * KIB, upkeep=FAST)


def opened(
    path: Path,
    limits: StoreLimits = SMALL_VOLUMES,
    disk: Disk | None = None,
    clocks: Clocks | None = None,
) -> AbstractAsyncContextManager[VolumeStore]:
    return reopened.opened(path, limits, disk, clocks)


def shards_of(seeds: Iterable[int]) -> list[ShardRecord]:
    """Every fourth is large."""
    return [make_shard(70 * KIB if seed % 4 == 0 else 500 + seed, seed) for seed in seeds]


async def append_all(store: VolumeStore, shards: Sequence[ShardRecord]) -> None:
    """In several calls: what one call brings is never split between volumes."""
    for at in range(0, len(shards), 4):
        await store.append(shards[at : at + 4])


def addresses_of(shards: Sequence[ShardRecord]) -> list[ShardAddress]:
    return [shard.address for shard in shards]


async def held(store: VolumeStore, shards: Sequence[ShardRecord]) -> list[bool]:
    """For each, whether it is there; what is there must be right."""
    found = await store.read(addresses_of(shards))
    for shard, got in zip(shards, found, strict=True):
        assert not isinstance(got, ShardRecord) or bytes(got.payload) == shard.payload
    return [isinstance(got, ShardRecord) for got in found]


async def check(
    store: VolumeStore, live: Sequence[ShardRecord], dead: Sequence[ShardRecord]
) -> None:
    """Exactly `live` is there: by reading, by listing and by count."""
    assert all(await held(store, live))
    assert not any(await held(store, dead))
    assert [info.address async for info in store.list()] == sorted(addresses_of(live))
    assert (await store.stat()).shards == len(live)


async def compact_all(store: VolumeStore) -> int:
    """How many volumes went."""
    removed = 0
    while await store.compact_once():
        removed += 1
        assert removed < 1000, "compaction does not come to an end"
    return removed


def volume_files(path: Path) -> list[Path]:
    return sorted((path / "volumes").iterdir())


def bytes_on_disk(path: Path) -> int:
    return sum(file.stat().st_size for file in volume_files(path))


def snapshot(path: Path, to: Path) -> Path:
    """What a process finds that starts after this one was killed now."""
    shutil.copytree(path, to, ignore=shutil.ignore_patterns("lock"))
    return to


def without_index(path: Path) -> None:
    remove_index(path / "index.db")


def with_index_of(older: Path) -> Callable[[Path], None]:
    """The index lost its last transactions, as a power loss may take them."""

    def replace(path: Path) -> None:
        remove_index(path / "index.db")
        for file in older.glob("index.db*"):
            shutil.copy(file, path / file.name)

    return replace


def files_in_quarantine(path: Path) -> list[Path]:
    return sorted((path / "quarantine").iterdir())


def kept(store: VolumeStore) -> list[str]:
    """The addresses in quarantine, sorted."""
    return [str(each.address) for each in store.upkeep.quarantine.page(None, 1000)]


def crash_in(data: Path, to: Path) -> Callable[[], None]:
    """The first time that it is called it keeps what a crash would leave."""

    def crash() -> None:
        if not to.exists():
            snapshot(data, to)

    return crash

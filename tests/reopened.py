"""A node's data directory that is opened, filled, and opened again."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

from common.shards import ShardRecord
from shardd.disk import Disk
from shardd.identity import DataDirectory
from shardd.store import StoreLimits, VolumeStore
from shardd.throttle import Clocks
from shardd.volume import SUPERBLOCK_BYTES, VolumeClass, volume_name


@asynccontextmanager
async def opened(
    path: Path,
    limits: StoreLimits | None = None,
    disk: Disk | None = None,
    clocks: Clocks | None = None,
) -> AsyncIterator[VolumeStore]:
    directory = DataDirectory(path)
    try:
        store = await VolumeStore.open(directory, limits, disk, clocks)
        try:
            yield store
        finally:
            await store.close()
    finally:
        directory.close()


async def fill(path: Path, *calls: Sequence[ShardRecord]) -> None:
    async with opened(path) as store:
        for records in calls:
            await store.append(records)


async def present(store: VolumeStore, shards: Sequence[ShardRecord]) -> list[bool]:
    """For each, whether it is there; what is there must be right."""
    found = await store.read([shard.address for shard in shards])
    for shard, got in zip(shards, found, strict=True):
        assert not isinstance(got, ShardRecord) or bytes(got.payload) == shard.payload
    return [isinstance(got, ShardRecord) for got in found]


async def holds(store: VolumeStore, shard: ShardRecord) -> bool:
    return await present(store, [shard]) == [True]


def volume(path: Path, number: int = 1) -> Path:
    return path / "volumes" / volume_name(number)


def offsets(shards: Sequence[ShardRecord]) -> list[int]:
    """Where each record of a volume starts, and where the last one ends."""
    at = [SUPERBLOCK_BYTES]
    for shard in shards:
        size = len(shard.payload)
        at.append(at[-1] + VolumeClass.of(size).span(size))
    return at

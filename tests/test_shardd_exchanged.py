"""Directories that are exchanged under running nodes: nothing is written into the other one's,
whatever the instant."""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from common.errors import StoreReadOnly
from common.framing import LARGE_PAYLOAD_BYTES
from shardd.disk import Disk, RealDisk
from shardd.identity import DataDirectory
from shardd.store import VolumeStore
from tests.stores import make_shard

SIZES = pytest.mark.parametrize("size_bytes", [100, LARGE_PAYLOAD_BYTES])


class ExchangedBefore(RealDisk):
    """The directory is exchanged for another when a volume is about to be created in it."""

    def __init__(self, here: Path, there: Path) -> None:
        self._here, self._there = here, there

    def open(self, path: Path, flags: int) -> int:
        if path.suffix == ".vol" and flags & os.O_CREAT:
            exchange(self._here, self._there)
        return super().open(path, flags)


def exchange(here: Path, there: Path) -> None:
    here.rename(aside := here.with_name("aside"))
    there.rename(here)
    aside.rename(there)


@asynccontextmanager
async def opened(path: Path, disk: Disk | None = None) -> AsyncIterator[VolumeStore]:
    directory = DataDirectory(path)
    store = await VolumeStore.open(directory, disk=disk)
    try:
        yield store
    finally:
        await store.close()
        directory.close()


def volumes_in(path: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in (path / "volumes").iterdir()}


@SIZES
async def test_a_volume_of_before_the_start_is_not_looked_for_elsewhere(
    tmp_path: Path, size_bytes: int
) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    for path in (here, there):
        async with opened(path) as store:
            await store.append([make_shard(size_bytes)])
    before = volumes_in(here), volumes_in(there)
    async with opened(here) as store:
        exchange(here, there)
        for _ in range(2):
            with pytest.raises(StoreReadOnly):
                await store.append([make_shard(size_bytes)])
        assert store.failure
        exchange(here, there)
    assert (volumes_in(here), volumes_in(there)) == before


async def test_what_is_refused_with_it_leaves_no_trace(tmp_path: Path) -> None:
    """One write for two volumes: the first takes its part, the second is somebody else's."""
    here, there = tmp_path / "here", tmp_path / "there"
    small, large = make_shard(100), make_shard(LARGE_PAYLOAD_BYTES)
    for path in (here, there):
        async with opened(path) as store:
            await store.append([make_shard(100), make_shard(LARGE_PAYLOAD_BYTES)])
    async with opened(here) as store:
        await store.append([make_shard(100)])
        before = volumes_in(here), volumes_in(there)
        exchange(here, there)
        with pytest.raises(StoreReadOnly):
            await store.append([small, large])
        exchange(here, there)
    assert (volumes_in(here), volumes_in(there)) == before


@SIZES
async def test_a_volume_that_was_begun_elsewhere_is_taken_back(
    tmp_path: Path, size_bytes: int
) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    DataDirectory(there).close()
    async with opened(here, ExchangedBefore(here, there)) as store:
        with pytest.raises(StoreReadOnly):
            await store.append([make_shard(size_bytes)])
        assert store.failure
    assert volumes_in(here) == volumes_in(there) == {}

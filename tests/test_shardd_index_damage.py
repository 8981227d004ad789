"""An index that is damaged under a running node: it says so, and the next start makes it anew."""

import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from common.errors import StoreReadOnly, Unavailable
from common.shards import ShardRecord
from shardd.store import VolumeStore
from tests.stores import make_shard
from tests.upkeep import check, opened, snapshot

SHARDS = [make_shard(50, seed) for seed in range(4000)]


def overwrite(index: Path) -> None:
    """Every leaf of the rows."""
    with closing(sqlite3.connect(f"file:{index}?mode=ro", uri=True)) as database:
        (page_bytes,) = database.execute("PRAGMA page_size").fetchone()
    data = bytearray(index.read_bytes())
    for start in range(page_bytes, len(data), page_bytes):
        if data[start] in (10, 13):  # leaves, of indexes and of tables
            data[start : start + 64] = b"\xff" * 64
    with index.open("r+b") as file:
        file.write(data)


def cut_off(index: Path) -> None:
    with index.open("r+b") as file:
        file.truncate(8192)


async def errors_of(store: VolumeStore, shards: list[ShardRecord]) -> set[str]:
    """What reading says, if it says no record: an error, but never that there is none."""
    said = set()
    for shard in shards:
        try:
            (found,) = await store.read([shard.address])
            assert isinstance(found, ShardRecord)
        except Unavailable as error:
            said.add(str(error))
    return said


@pytest.mark.parametrize("killed", [False, True])
@pytest.mark.parametrize("damage", [overwrite, cut_off])
async def test_a_damaged_index_is_told_and_made_anew(
    tmp_path: Path, damage: Callable[[Path], None], killed: bool
) -> None:
    path = tmp_path / "node"
    async with opened(path) as store:
        await store.append(SHARDS)
    async with opened(path) as store:
        damage(path / "index.db")
        assert await errors_of(store, SHARDS[::10])
        assert store.failure is not None and "the index is damaged" in store.failure
        assert "the index is damaged" in (await store.stat()).failure
        with pytest.raises(StoreReadOnly, match="a restart mends it"):
            await store.append([make_shard(60)])
        if killed:
            snapshot(path, tmp_path / "killed")
    async with opened(tmp_path / "killed" if killed else path) as store:
        assert store.failure is None
        await check(store, SHARDS, [])
        await store.append([make_shard(60)])

"""An index that is damaged under a running node: it says so, and the next start makes it anew."""

import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from common.errors import StoreReadOnly, Unavailable
from common.shards import ShardRecord
from shardd import index_seal
from shardd.disk import RealDisk
from shardd.store import VolumeStore
from tests.stores import make_shard
from tests.upkeep import check, opened, snapshot

SHARDS = [make_shard(50, seed) for seed in range(4000)]


def overwrite(index: Path) -> None:
    """Only where the first shard is told of: all else is as it was."""
    with closing(sqlite3.connect(f"file:{index}?mode=ro", uri=True)) as database:
        (page_bytes,) = database.execute("PRAGMA page_size").fetchone()
    data, key = bytearray(index.read_bytes()), SHARDS[0].address.key
    while (at := data.find(key)) >= 0:
        start = at - at % page_bytes
        data[start : start + page_bytes] = b"\xff" * page_bytes
    with index.open("r+b") as file:
        file.write(data)


def cut_off(index: Path) -> None:
    with index.open("r+b") as file:
        file.truncate(8192)


def index_files(path: Path) -> list[Path]:
    return list(path.glob("index.db*"))


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


async def test_an_index_that_was_not_written_at_the_end_is_not_sealed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*arguments: object) -> None:
        raise Unavailable("planned")

    async with opened(tmp_path) as store:
        await store.append(SHARDS[:20])
        monkeypatch.setattr(store._catalog._file, "write", fail)
    assert index_files(tmp_path) == []
    async with opened(tmp_path) as store:
        await check(store, SHARDS[:20], [])


async def test_a_seal_is_broken_durably_before_the_index_is_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else, after a power loss, a good index would be held against an old seal."""
    async with opened(tmp_path) as store:
        await store.append(SHARDS[:20])
    synced = list[bool]()

    class Watched(RealDisk):
        def fsync_dir(self, path: Path) -> None:
            synced.append((path / "index.db-sum").exists())
            super().fsync_dir(path)

    monkeypatch.setattr(index_seal, "RealDisk", Watched)
    assert (tmp_path / "index.db-sum").exists()
    assert index_seal.break_seal(tmp_path / "index.db")
    assert synced == [False]
    assert not index_seal.break_seal(tmp_path / "index.db")

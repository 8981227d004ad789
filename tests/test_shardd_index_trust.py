"""What a node believes of its index at the start, and what it leaves of a bad one at the end."""

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from common.errors import Unavailable
from common.shards import ShardRecord
from shardd.disk import RealDisk
from shardd.index import IndexDamaged
from shardd.index_seal import break_seal, seal_index
from tests.stores import make_shard
from tests.upkeep import check, opened, snapshot

SHARDS = [make_shard(50, seed) for seed in range(3000)]


async def fill(path: Path) -> None:
    async with opened(path) as store:
        await store.append(SHARDS)


def rot_a_row_of(path: Path, shard: ShardRecord) -> None:
    """The head of the page that it is on, and of no other page."""
    index = path / "index.db"
    with closing(sqlite3.connect(f"file:{index}?mode=ro", uri=True)) as database:
        (page_bytes,) = database.execute("PRAGMA page_size").fetchone()
    data = bytearray(index.read_bytes())
    page = data.index(shard.info.checksum) // page_bytes * page_bytes
    assert data[page] == 10  # a leaf
    data[page : page + 64] = b"\xff" * 64
    index.write_bytes(data)


@pytest.mark.parametrize("end", ["stopped", "killed"])
async def test_one_rotten_page_is_found_at_the_start(tmp_path: Path, end: str) -> None:
    """However small: what it hides would be an error for ever, and whoever asks would wait for it.
    After a kill there is no sum to compare: SQLite must look."""
    path = tmp_path / "node"
    await fill(path)
    if end == "killed":
        async with opened(path):
            path = snapshot(path, tmp_path / "killed")
    assert (path / "index.db-sum").exists() == (end == "stopped")
    rot_a_row_of(path, SHARDS[1234])
    async with opened(path) as store:
        await check(store, SHARDS, [])


async def test_an_index_that_could_not_be_written_is_not_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever was wrong with it, a sum over it would say that it is right."""

    def fail(*_: object) -> None:
        raise Unavailable("planned")

    await fill(tmp_path)
    more = make_shard(60)
    with monkeypatch.context() as patched:
        async with opened(tmp_path) as store:
            patched.setattr(store._catalog._file, "write", fail)
            await store.append([more])
    assert not any((tmp_path / name).exists() for name in ("index.db", "index.db-sum"))
    async with opened(tmp_path) as store:
        await check(store, [*SHARDS, more], [])


async def test_the_sum_goes_durably_before_the_index_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else a good index would be held against it after a crash, and made anew."""
    await fill(tmp_path)
    total, synced = tmp_path / "index.db-sum", list[bool]()
    assert total.exists()

    def fsync_dir(disk: RealDisk, path: Path) -> None:
        assert path == tmp_path
        synced.append(not total.exists())

    with monkeypatch.context() as patched:
        patched.setattr(RealDisk, "fsync_dir", fsync_dir)
        assert break_seal(tmp_path / "index.db") is True
    assert synced == [True]
    assert break_seal(tmp_path / "index.db") is False


@pytest.mark.parametrize("part", ["index.db", "index.db-wal"])
def test_the_sum_covers_what_is_left_in_the_log(tmp_path: Path, part: str) -> None:
    """SQLite reads it too."""
    for name in ("index.db", "index.db-wal"):
        (tmp_path / name).write_bytes(b"as it was closed")
    seal_index(tmp_path / "index.db")
    (tmp_path / part).write_bytes(b"As it was closed")
    with pytest.raises(IndexDamaged):
        break_seal(tmp_path / "index.db")

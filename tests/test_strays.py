"""Shards that lie elsewhere than the layout says, as after a backup of the database was restored,
are found and kept."""

import random
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from common.errors import Unreadable
from tests.torture.one_process import GRACE_S, Store

DATA = random.Random(1).randbytes(50_000)
MOVED = (1, 2, 3, 4)


def copy_database(source: Path, target: Path) -> None:
    with closing(sqlite3.connect(source)) as database:
        database.execute("VACUUM INTO ?", (str(target),))


async def move_away(store: Store) -> None:
    """Drain nodes and take them back: their shards have moved then."""
    front = store.fronts[0]
    for number in MOVED:
        await front.draining.drain(f"node-{number}", force=True, dry_run=False)
    await front.work("repair")
    await front.work("outbox")
    for number in MOVED:
        await front.draining.undrain(f"node-{number}")


async def restore(store: Store, backup: Path) -> None:
    for front in store.fronts:
        await front.close()
    for path in store.database.parent.glob("metadata.db*"):
        path.unlink()
    shutil.copy(backup, store.database)
    for front in store.fronts:
        await front.start()
    for number in store.up:
        await store._report(number)


async def test_a_restored_database_finds_what_has_moved_since(store: Store, tmp_path: Path) -> None:
    front = store.fronts[0]
    id_ = (await front.put(DATA)).id
    copy_database(store.database, tmp_path / "backup.db")
    await move_away(store)
    await store.pass_time(200)
    assert await front.get(id_) == DATA
    await restore(store, tmp_path / "backup.db")
    assert await front.metadata.deletes_stopped()
    with pytest.raises(Unreadable):
        await front.get(id_)
    await front.settle()
    await front.work("repair")
    assert await front.get(id_) == DATA


async def test_what_has_moved_is_missed_by_the_sweep_and_outlives_it(
    store: Store, tmp_path: Path
) -> None:
    """Though nobody reads it, and an operator allows deletes before repair has come to it."""
    front = store.fronts[0]
    id_ = (await front.put(DATA)).id
    copy_database(store.database, tmp_path / "backup.db")
    await move_away(store)
    await store.pass_time(200)
    await front.metadata._begin_session()
    for number in store.up:
        await store._report(number)
    await restore(store, tmp_path / "backup.db")
    await front.work("sweep")
    assert (await front.metadata.counts())["repair_queue"] == 1
    await front.metadata.allow_deletes()
    for _ in range(2):
        await front.work("sweep")
        await front.work("outbox")
        await store.pass_time(GRACE_S + 10)
        await front.metadata._begin_session()
    await front.work("repair")
    assert await front.get(id_) == DATA
    await front.work("outbox")
    await store.pass_time(200)  # a place where something was deleted rests
    await front.work("repair")
    assert (await front.metadata.counts())["repair_queue"] == 0

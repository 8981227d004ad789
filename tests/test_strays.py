"""Shards that lie elsewhere than the layout says, as after a backup of the database was restored,
are found and kept."""

import random
import shutil
import sqlite3
from collections.abc import Awaitable, Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from common.errors import Unreadable
from common.ids import ContentId
from common.shards import ShardRecord
from coordinator.mend import Mender
from coordinator.metadata import DeleteReason, ShardsOnNode, StoredSegment
from coordinator.metadata.rows import UNUSED_S
from coordinator.strays import find_strays
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


async def stray(store: Store) -> StoredSegment:
    """DATA, four shards of which lie elsewhere than the layout says: too many to do without."""
    front = store.fronts[0]
    (stored,) = (await front.reads.find((await front.put(DATA)).id)).segments
    for index in range(4):
        await move(store, stored, index, stored.layout[index + 4])
    await front.metadata.sweeping.note_missing(stored.layout[0], [stored.address(0)])
    return stored


async def move(store: Store, stored: StoredSegment, index: int, to: int) -> None:
    home, other = store.nodes[stored.layout[index]].store, store.nodes[to].store
    assert home is not None and other is not None
    address = stored.address(index)
    (record,) = await home.read([address])
    assert isinstance(record, ShardRecord)
    await other.append([ShardRecord(record.info, bytes(record.payload))])
    await home.delete([address])


async def is_mended(store: Store, stored: StoredSegment) -> None:
    front = store.fronts[0]
    for _ in range(3):
        for job in ("repair", "outbox"):
            await front.work(job)
        await store.pass_time(GRACE_S + 100)
    assert await front.get(ContentId(stored.id)) == DATA
    assert (await front.metadata.counts())["repair_queue"] == 0


def once_found(monkeypatch: pytest.MonkeyPatch, happens: Callable[[], Awaitable[None]]) -> None:
    """Whoever looks for strays next has found them when this happens."""

    async def then(*asked: Any) -> dict[int, int]:
        found = await find_strays(*asked)
        monkeypatch.setattr("coordinator.mend.find_strays", find_strays)
        await happens()
        return found

    monkeypatch.setattr("coordinator.mend.find_strays", then)


async def test_what_was_found_outlives_a_mender_that_was_paused(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was deleted, as if the mender had put it there itself and in vain."""
    stored = await stray(store)

    async def pause() -> None:
        store.clock.now_s += UNUSED_S

    once_found(monkeypatch, pause)
    await is_mended(store, stored)


async def test_what_was_found_outlives_a_mender_that_has_seen_less(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It switches the layout to some of them; the others were deleted."""
    stored = await stray(store)
    for index in (4, 5, 8):
        held = store.nodes[stored.layout[index]].store
        assert held is not None
        await held.delete([stored.address(index)])
    away = store.nodes[stored.layout[7]]

    async def the_other_mends() -> None:
        away.cut_off = True
        assert (await Mender(store.fronts[1].services).mend(stored)).superseded
        away.cut_off = False

    once_found(monkeypatch, the_other_mends)
    assert not (await Mender(store.fronts[0].services).mend(stored)).superseded
    await is_mended(store, stored)


async def test_a_stray_that_is_about_to_be_deleted_keeps_none_of_the_others(store: Store) -> None:
    """It cannot be named any more; without it there are enough."""
    stored, metadata = await stray(store), store.fronts[0].metadata
    doomed = ShardsOnNode(stored.layout[4], (stored.address(0),))
    await metadata.add_deletes([doomed], DeleteReason.RETIRED)
    await metadata.stop_deletes("as after a backup was restored")
    await store.fronts[0].work("repair")
    assert await store.fronts[0].get(ContentId(stored.id)) == DATA


async def test_what_another_has_moved_is_no_stray(store: Store) -> None:
    """A mender that has read the layout before sees that, and says nothing of the segment."""
    front = store.fronts[0]
    (stored,) = (await front.reads.find((await front.put(DATA)).id)).segments
    await move_away(store)
    assert (await Mender(front.services).mend(stored)).superseded
    (now,) = (await front.reads.find(ContentId(stored.id))).segments
    assert set(now.layout).isdisjoint(MOVED)

"""The log beside the database file: its own is merged with it, that of another file never."""

import asyncio
import random
import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from common.errors import BadSetting
from common.ids import ContentId
from coordinator.metadata import Metadata, StoredSegment, open_metadata
from coordinator.metadata.damage import check_file
from coordinator.metadata.own_log import NUMBERS, Stamp
from tests.database_files import backup, checkpoint
from tests.metadata_parts import GRACE_S, execute, filled

LOG = "metadata.db-wal"


async def opened(path: Path) -> Metadata:
    metadata = open_metadata(path, "", GRACE_S)
    await metadata.start()
    return metadata


async def known(path: Path, stored: list[StoredSegment]) -> list[bool]:
    """Which of them a process that opens what lies there finds."""
    metadata = await opened(path)
    try:
        found = [await metadata.find_content(ContentId(one.id)) for one in stored]
    finally:
        await metadata.close()
    return [one is not None for one in found]


def refused(path: Path, match: str) -> None:
    """Again and again, and nothing is changed by it."""
    before = [(path / name).read_bytes() for name in ("metadata.db", LOG)]
    for _ in range(2):
        with pytest.raises(BadSetting, match=match):
            open_metadata(path, "", GRACE_S)
    assert [(path / name).read_bytes() for name in ("metadata.db", LOG)] == before


def without_log(path: Path) -> Path:
    for name in (LOG, "metadata.db-shm"):
        (path / name).unlink(missing_ok=True)
    return path


def moved(file: Path) -> None:
    """The log begins anew with the next transaction."""
    with closing(sqlite3.connect(file)) as database:
        while database.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()[0]:
            pass


def nothing(file: Path) -> None:
    """The log goes on."""


@pytest.mark.parametrize("count", [1, 5, 300])
@pytest.mark.parametrize("empty", [moved, checkpoint])
async def test_a_backup_beside_a_later_log_is_not_opened(
    tmp_path: Path, count: int, empty: Callable[[Path], None]
) -> None:
    """As cp leaves it when the coordinator was killed. What has changed may be so little that the
    mixture of both would be well-formed."""
    live, crashed = tmp_path / "live", tmp_path / "crashed"
    metadata = await opened(live)
    early = await filled(metadata, count)
    backup(live / "metadata.db", tmp_path / "backup.db")
    between = await filled(metadata, count)
    empty(live / "metadata.db")
    late = await filled(metadata, 1)
    shutil.copytree(live, crashed)
    await metadata.close()
    shutil.copy(tmp_path / "backup.db", crashed / "metadata.db")
    refused(crashed, f"older than the log beside it.* delete {LOG}")
    there = await known(without_log(crashed), early + between + late)
    assert there == [True] * count + [False] * (count + 1)


async def test_a_younger_file_beside_an_old_log_is_not_opened(tmp_path: Path) -> None:
    """A copy from elsewhere, put where a killed coordinator left its log."""
    live, crashed = tmp_path / "live", tmp_path / "crashed"
    metadata = await opened(live)
    early = await filled(metadata, 5)
    shutil.copytree(live, crashed)
    late = await filled(metadata, 5)
    await metadata.close()
    shutil.copy(live / "metadata.db", crashed / "metadata.db")
    refused(crashed, f"younger than the log beside it.* delete {LOG}")
    assert all(await known(without_log(crashed), early + late))


async def test_the_log_of_another_history_is_not_merged(tmp_path: Path) -> None:
    """One went on after the backup, the other when it had been restored: with the same numbers."""
    live, other = tmp_path / "live", tmp_path / "other"
    metadata = await opened(live)
    await filled(metadata, 5)
    other.mkdir()
    backup(live / "metadata.db", other / "metadata.db")
    late = [one for _ in range(5) for one in await filled(metadata, 1)]
    backup(live / "metadata.db", tmp_path / "backup.db")
    await metadata.close()
    metadata = await opened(other)
    for _ in range(20):
        await filled(metadata, 1)
    crashed = shutil.copytree(other, tmp_path / "crashed")
    await metadata.close()
    shutil.copy(tmp_path / "backup.db", crashed / "metadata.db")
    refused(crashed, f"another history.* delete {LOG}")
    assert all(await known(without_log(crashed), late))


@pytest.mark.parametrize("left", ["gone", "empty"])
async def test_a_log_without_its_file_is_not_deleted(tmp_path: Path, left: str) -> None:
    """SQLite would, for a new database."""
    live = tmp_path / "live"
    metadata = await opened(live)
    stored = await filled(metadata, 5)
    crashed = shutil.copytree(live, tmp_path / "crashed")
    await metadata.close()
    file = (crashed / "metadata.db").read_bytes()
    (crashed / "metadata.db").write_bytes(b"")
    refused(crashed, "not the file that it belongs to")
    if left == "gone":
        (crashed / "metadata.db").unlink()
        with pytest.raises(BadSetting, match="not the file that it belongs to"):
            open_metadata(crashed, "", GRACE_S)
    (crashed / "metadata.db").write_bytes(file)
    assert all(await known(crashed, stored))


@pytest.mark.parametrize("empty", [nothing, moved, checkpoint])
async def test_ones_own_log_is(tmp_path: Path, empty: Callable[[Path], None]) -> None:
    """Also with a backup that was taken since it began."""
    live = tmp_path / "live"
    metadata = await opened(live)
    stored = await filled(metadata, 5)
    empty(live / "metadata.db")
    stored += await filled(metadata, 5)
    backup(live / "metadata.db", tmp_path / "backup.db")
    stored += await filled(metadata, 5)
    killed = shutil.copytree(live, tmp_path / "killed")
    restored = shutil.copytree(live, tmp_path / "restored")
    shutil.copy(tmp_path / "backup.db", restored / "metadata.db")
    await metadata.close()
    assert all(await known(killed, stored))
    assert all(await known(restored, stored))


async def test_a_log_that_breaks_off_is_still_ones_own(tmp_path: Path) -> None:
    """As a power loss leaves it, anywhere: what was not synced was not acknowledged."""
    live = tmp_path / "live"
    metadata = await opened(live)
    stored = await filled(metadata, 5)
    checkpoint(live / "metadata.db")
    for _ in range(5):
        stored += await filled(metadata, 1)
    log = (live / LOG).read_bytes()
    chance = random.Random(7)
    for number in range(40):
        cut = shutil.copytree(live, tmp_path / str(number))
        at = chance.randrange(len(log))
        rest = chance.choice([b"", bytes(len(log) - at), chance.randbytes(len(log) - at)])
        (cut / LOG).write_bytes(log[:at] + rest)
        there = await known(cut, stored)
        assert there == sorted(there, reverse=True)  # none without those before it
        assert there[:5] == [True] * 5
    await metadata.close()


async def test_beside_a_log_that_was_begun_by_others_indexes_must_fit_the_tables(
    tmp_path: Path,
) -> None:
    """A program that does not number its transactions was at work."""
    live, crashed = tmp_path / "live", tmp_path / "crashed"
    metadata = await opened(live)
    stored = await filled(metadata)
    backup(live / "metadata.db", tmp_path / "backup.db")
    stored += await filled(metadata)
    await metadata.close()
    with closing(sqlite3.connect(live / "metadata.db")) as database:
        database.execute("UPDATE segment SET verified_at = verified_at + 1")
        database.execute("UPDATE segment SET layout = layout + 1 WHERE rowid < 5")
        database.execute("UPDATE segment SET layout = layout - 1 WHERE rowid < 5")
        database.commit()
        shutil.copytree(live, crashed)
    assert all(await known(shutil.copytree(crashed, tmp_path / "own"), stored))
    shutil.copy(tmp_path / "backup.db", crashed / "metadata.db")
    refused(crashed, "damaged")


async def test_the_log_may_begin_anew_while_others_look(metadata: Metadata, tmp_path: Path) -> None:
    """A second process opens what the first one commits to all the time."""
    over = False

    async def commit() -> None:
        while not over:
            await filled(metadata, 20)
            await asyncio.to_thread(moved, tmp_path / "metadata.db")

    committing = asyncio.create_task(commit())
    for _ in range(200):
        await asyncio.to_thread(check_file, tmp_path / "metadata.db")
    over = True
    await committing


async def test_numbers_begin_anew_after_the_last(tmp_path: Path) -> None:
    assert Stamp(NUMBERS - 1, 1, 2).next_by(3) == (0, 2, 3)
    live = tmp_path / "live"
    metadata = await opened(live)
    await execute(metadata, f"PRAGMA user_version = {NUMBERS - 3}")
    checkpoint(live / "metadata.db")
    stored: list[StoredSegment] = []
    for _ in range(6):
        stored += await filled(metadata, 1)
        killed = shutil.copytree(live, tmp_path / "killed")
        assert all(await known(killed, stored))
        shutil.rmtree(killed)
        moved(live / "metadata.db")
    await metadata.close()


async def test_what_changes_nothing_has_no_number(metadata: Metadata, tmp_path: Path) -> None:
    await filled(metadata, 1)
    with closing(sqlite3.connect(tmp_path / "metadata.db")) as database:
        (before,) = database.execute("PRAGMA user_version").fetchone()
        assert not await metadata.unpin(ContentId(bytes(32)))
        assert database.execute("PRAGMA user_version").fetchone() == (before,)
        await filled(metadata, 1)
        assert database.execute("PRAGMA user_version").fetchone() == (before + 1,)

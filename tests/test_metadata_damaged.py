"""A damaged metadata database: nothing of it is believed, and whoever asks is told the way out."""

import asyncio
import shutil
from pathlib import Path

import pytest

from common.errors import BadSetting, MetadataDamaged
from common.ids import ContentId
from coordinator.metadata import Metadata, StoredSegment, open_metadata
from coordinator.metadata.damage import WAY_OUT
from tests.database_files import backup, checkpoint, overwrite, root_page
from tests.metadata_parts import GRACE_S, execute, segment, single


async def filled(metadata: Metadata, count: int = 300) -> list[StoredSegment]:
    stored = [segment(metadata) for _ in range(count)]
    await asyncio.gather(*(metadata.commit_content(single(one)) for one in stored))
    return stored


async def closed_database(path: Path) -> Path:
    metadata = open_metadata(path, "", GRACE_S)
    await metadata.start()
    await filled(metadata)
    await metadata.close()
    return path / "metadata.db"


@pytest.mark.parametrize("table", ["segment", "pin", "sqlite_autoindex_segment_1"])
async def test_a_file_that_is_not_well_formed_is_not_opened(tmp_path: Path, table: str) -> None:
    file = await closed_database(tmp_path)
    overwrite(file, root_page(file, table))
    with pytest.raises(BadSetting, match="damaged") as refused:
        open_metadata(tmp_path, "", GRACE_S)
    assert WAY_OUT in str(refused.value)


async def test_what_is_no_database_is_not_opened(tmp_path: Path) -> None:
    (tmp_path / "metadata.db").write_bytes(b"no database" * 1000)
    with pytest.raises(BadSetting, match="not a database") as refused:
        open_metadata(tmp_path, "", GRACE_S)
    assert WAY_OUT in str(refused.value)


async def test_a_backup_beside_the_log_of_another_file_is_not_opened(tmp_path: Path) -> None:
    """As cp leaves it when the coordinator was killed: SQLite would take the log for the file's."""
    live, crashed = tmp_path / "live", tmp_path / "crashed"
    metadata = open_metadata(live, "", GRACE_S)
    await metadata.start()
    await filled(metadata)
    backup(live / "metadata.db", tmp_path / "backup.db")
    await filled(metadata)
    checkpoint(live / "metadata.db")
    await filled(metadata)
    crashed.mkdir()
    shutil.copy(tmp_path / "backup.db", crashed / "metadata.db")
    shutil.copy(live / "metadata.db-wal", crashed / "metadata.db-wal")
    await metadata.close()
    with pytest.raises(BadSetting, match="damaged") as refused:
        open_metadata(crashed, "", GRACE_S)
    assert WAY_OUT in str(refused.value)
    (crashed / "metadata.db-wal").unlink()
    (crashed / "metadata.db-shm").unlink(missing_ok=True)
    restored = open_metadata(crashed, "", GRACE_S)
    await restored.start()
    assert (await restored.counts())["segment"] == 300
    await restored.close()


async def test_after_the_first_sign_nothing_is_believed(metadata: Metadata, tmp_path: Path) -> None:
    stored, file = await filled(metadata), tmp_path / "metadata.db"
    checkpoint(file)
    overwrite(file, root_page(file, "sqlite_autoindex_segment_1"))
    kept = single(segment(metadata))
    with pytest.raises(MetadataDamaged, match="malformed") as refused:
        for one in stored:
            await metadata.find_content(ContentId(one.id))
    assert WAY_OUT in str(refused.value)
    asked = [
        metadata.find_content(ContentId(stored[0].id)),
        metadata.commit_content(kept),
        metadata.unpin(ContentId(stored[0].id)),
        metadata.deletes_stopped(),
        metadata.due_deletes(1, 100),
    ]
    outcomes = await asyncio.gather(*asked, return_exceptions=True)
    assert [type(outcome) for outcome in outcomes] == [MetadataDamaged] * len(asked)


async def test_damage_that_a_commit_meets_is_final_too(metadata: Metadata, tmp_path: Path) -> None:
    await filled(metadata)
    file = tmp_path / "metadata.db"
    checkpoint(file)
    overwrite(file, root_page(file, "pin"))
    new = [single(segment(metadata)) for _ in range(3)]
    outcomes = await asyncio.gather(*map(metadata.commit_content, new), return_exceptions=True)
    assert [type(outcome) for outcome in outcomes] == [MetadataDamaged] * 3
    with pytest.raises(MetadataDamaged):
        await metadata.nodes()


@pytest.mark.parametrize("lost", ["segment", "layout"])
async def test_so_is_a_row_that_cannot_be(metadata: Metadata, lost: str) -> None:
    stored, *_ = await filled(metadata, 2)
    await execute(metadata, "PRAGMA foreign_keys = 0")
    await execute(metadata, f"DELETE FROM {lost}")
    with pytest.raises(MetadataDamaged, match="without its segment"):
        await metadata.find_content(ContentId(stored.id))
    with pytest.raises(MetadataDamaged):
        await metadata.commit_content(single(segment(metadata)))


@pytest.mark.parametrize("count", [1, 5, 20])
async def test_one_of_before_the_last_start_is_not_opened_however_little_has_changed(
    tmp_path: Path, count: int
) -> None:
    """What has changed may be so little that the mixture of both is well-formed."""
    live, crashed = tmp_path / "live", tmp_path / "crashed"
    for _ in range(2):
        metadata = open_metadata(live, "", GRACE_S)
        await metadata.start()
        backup(live / "metadata.db", tmp_path / "backup.db")
        await filled(metadata, count)
        await metadata.close()
    metadata = open_metadata(live, "", GRACE_S)
    await metadata.start()
    (late,) = await filled(metadata, 1)
    shutil.copytree(live, crashed)
    await metadata.close()
    again = open_metadata(shutil.copytree(crashed, tmp_path / "again"), "", GRACE_S)
    await again.start()  # nothing was restored: the log is the file's own
    assert await again.find_content(ContentId(late.id)) is not None
    await again.close()
    shutil.copy(tmp_path / "backup.db", crashed / "metadata.db")
    for _ in range(2):
        with pytest.raises(BadSetting, match="older than the log"):
            open_metadata(crashed, "", GRACE_S)
    for name in ("metadata.db-wal", "metadata.db-shm"):
        (crashed / name).unlink()
    for _ in range(2):
        restored = open_metadata(crashed, "", GRACE_S)
        await restored.start()
        assert (await restored.counts())["segment"] == count
        await filled(restored, 1)
        shutil.copytree(crashed, tmp_path / "killed", dirs_exist_ok=True)
        await restored.close()
        count += 1
    killed = open_metadata(tmp_path / "killed", "", GRACE_S)  # with a log that is its own
    await killed.start()
    assert (await killed.counts())["segment"] == count
    await killed.close()


async def test_an_era_that_cannot_be_read_is_none(tmp_path: Path) -> None:
    file = await closed_database(tmp_path)
    file.with_name("metadata.db-era").write_text("what?")
    opened = open_metadata(tmp_path, "", GRACE_S)
    await opened.start()
    assert int(file.with_name("metadata.db-era").read_text()) > 0
    await opened.close()

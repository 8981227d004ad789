"""A damaged metadata database: nothing of it is believed, and whoever asks is told the way out."""

import asyncio
from pathlib import Path

import pytest

from common.errors import BadSetting, MetadataDamaged
from common.ids import ContentId
from coordinator.metadata import Metadata, open_metadata
from coordinator.metadata.damage import WAY_OUT
from tests.database_files import checkpoint, overwrite, root_page
from tests.metadata_parts import GRACE_S, execute, filled, segment, single


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

"""A start that makes the index anew while the disk fails, or that is cut off."""

from pathlib import Path
from unittest.mock import patch

from common.errors import Unavailable
from shardd.index import IndexFile
from tests.disks.faulty import EIO, faulty
from tests.stores import make_shard
from tests.upkeep import opened, snapshot


async def test_an_error_of_fsync_is_final_though_the_index_is_made_anew_after_it(
    tmp_path: Path,
) -> None:
    crashed, write, calls = tmp_path / "crashed", IndexFile.write, list[int]()
    async with opened(tmp_path / "node") as store:
        await store.append([make_shard(500, 1)])
        snapshot(tmp_path / "node", crashed)

    def fails_once(self: IndexFile, *arguments: object) -> None:
        calls.append(1)
        if len(calls) == 1:
            raise Unavailable("planned")
        write(self, *arguments)  # type: ignore[arg-type]

    with faulty() as disk, patch.object(IndexFile, "write", fails_once):
        disk.script("fdatasync", EIO, file_name=".vol")
        async with opened(crashed, disk=disk) as store:
            assert store.failure is not None

"""A start that makes the index anew while the disk fails, or that is cut off."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any
from unittest.mock import patch

from common.errors import Unavailable
from shardd.entries import Entry
from shardd.index import IndexFile
from shardd.quarantine import Quarantine
from tests.disks.faulty import EIO, faulty
from tests.reopened import offsets, volume
from tests.stores import make_shard
from tests.upkeep import held, opened, snapshot, without_index


async def test_an_error_of_fsync_is_final_though_the_index_is_made_anew_after_it(
    tmp_path: Path,
) -> None:
    crashed, write, calls = tmp_path / "crashed", IndexFile.write, list[int]()
    async with opened(tmp_path / "node") as store:
        await store.append([make_shard(500, 1)])
        snapshot(tmp_path / "node", crashed)

    def fails_once(self: IndexFile, *arguments: Any) -> None:
        calls.append(1)
        if len(calls) == 1:
            raise Unavailable("planned")
        write(self, *arguments)

    with faulty() as disk, patch.object(IndexFile, "write", fails_once):
        disk.script("fdatasync", EIO, file_name=".vol")
        async with opened(crashed, disk=disk) as store:
            assert store.failure is not None


async def test_a_start_that_is_killed_forgets_no_bad_shard(tmp_path: Path) -> None:
    """Between the flush of what it has read, and the file in quarantine/."""
    data, killed = tmp_path / "data", tmp_path / "killed"
    shards, keep = [make_shard(500, seed) for seed in range(3)], Quarantine.keep_lost
    async with opened(data) as store:
        await store.append(shards)
    without_index(data)
    written = bytearray(volume(data).read_bytes())
    written[offsets(shards)[1] + 128] ^= 1
    volume(data).write_bytes(written)

    async def kill(self: Quarantine, entries: Sequence[Entry]) -> None:
        snapshot(data, killed)
        await keep(self, entries)

    with patch.object(Quarantine, "keep_lost", kill):
        async with opened(data):
            pass
    for path in (data, killed, killed):
        async with opened(path) as store:
            assert store.upkeep.quarantine.bad_shards == 1
            assert await held(store, shards) == [True, False, True]

"""Sequence numbers at their end: none is given, or believed, that the index could not hold."""

from pathlib import Path

import pytest

from common.errors import StoreReadOnly
from common.record import HEADER_BYTES, shard_header
from common.shards import ShardRecord
from shardd.index import remove_index
from shardd.volume import LAST_SEQUENCE, SUPERBLOCK_BYTES
from tests.reopened import fill, opened, present, volume
from tests.stores import make_shard

SHARDS = [make_shard(32, seed) for seed in range(4)]


def add_by_hand(path: Path, shard: ShardRecord, sequence: int) -> None:
    """As if this node had once written it."""
    with volume(path).open("ab") as file:
        file.write(shard_header(shard.info, sequence) + shard.payload)
    remove_index(path / "index.db")


async def test_a_number_that_is_too_high_is_not_believed(tmp_path: Path) -> None:
    await fill(tmp_path, SHARDS[:1])
    add_by_hand(tmp_path, SHARDS[1], LAST_SEQUENCE + 1)
    async with opened(tmp_path) as store:
        assert await present(store, SHARDS[:2]) == [True, False]
        await store.append(SHARDS[2:])
        assert store.failure is None
    async with opened(tmp_path) as store:
        assert await present(store, SHARDS) == [True, False, True, True]


async def test_when_the_numbers_are_used_up_nothing_is_acknowledged_any_more(
    tmp_path: Path,
) -> None:
    await fill(tmp_path, SHARDS[:1])
    add_by_hand(tmp_path, SHARDS[1], LAST_SEQUENCE - 1)
    async with opened(tmp_path) as store:
        await store.append(SHARDS[2:3])  # it takes the last
        for work in (store.append(SHARDS[3:]), store.delete([SHARDS[0].address])):
            with pytest.raises(StoreReadOnly):
                await work
        assert await present(store, SHARDS) == [True, True, True, False]
    remove_index(tmp_path / "index.db")
    async with opened(tmp_path) as store:
        assert await present(store, SHARDS) == [True, True, True, False]
    size_bytes = SUPERBLOCK_BYTES + 3 * (HEADER_BYTES + 32)
    assert volume(tmp_path).stat().st_size == size_bytes

"""One suite for every ShardStore: what common/shards.py promises, each implementation keeps.

To add an implementation, write an async context manager that yields it and name it in STORES.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path

import pytest

from common.errors import Corrupt, NodeTimeout, Unavailable
from common.ids import ShardAddress
from common.shards import Encoding, ShardMissing, ShardRecord, ShardStore
from common.units import KIB, MIB
from shardd.identity import DataDirectory
from shardd.store import VolumeStore
from tests.remote_node import remote_to
from tests.stores import MemoryStore, make_shard, scripted, served_node

SIZES = (0, 1, 7, 128, 4 * KIB, 64 * KIB - 1, 64 * KIB, 64 * KIB + 1, MIB, MIB + 3)


@asynccontextmanager
async def _memory(path: Path) -> AsyncIterator[ShardStore]:
    yield MemoryStore()


@asynccontextmanager
async def _scripted(path: Path) -> AsyncIterator[ShardStore]:
    with scripted(MemoryStore()) as store:
        yield store


@asynccontextmanager
async def _volumes(path: Path) -> AsyncIterator[ShardStore]:
    directory = DataDirectory(path)
    store = await VolumeStore.open(directory)
    try:
        yield store
    finally:
        await store.close()
        directory.close()


@asynccontextmanager
async def _remote(path: Path) -> AsyncIterator[ShardStore]:
    async with served_node(path) as node, remote_to(node) as remote:
        yield remote


STORES: dict[str, Callable[[Path], AbstractAsyncContextManager[ShardStore]]] = {
    "memory": _memory,
    "scripted": _scripted,
    "volumes": _volumes,
    "remote": _remote,
}


@pytest.fixture(params=STORES)
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[ShardStore]:
    async with STORES[request.param](tmp_path / "data") as opened:
        yield opened


async def _addresses(store: ShardStore, after: ShardAddress | None = None) -> list[ShardAddress]:
    return [info.address async for info in store.list(after)]


async def _holds(store: ShardStore, *records: ShardRecord) -> bool:
    """Whether the store gives back exactly these."""
    found = await store.read([record.address for record in records])
    return all(
        isinstance(got, ShardRecord) and got.info == put.info and bytes(got.payload) == put.payload
        for got, put in zip(found, records, strict=True)
    )


@pytest.mark.parametrize("size", SIZES)
async def test_a_shard_comes_back_as_it_was_put(store: ShardStore, size: int) -> None:
    shard = make_shard(size)
    await store.append([shard])
    assert await _holds(store, shard)


async def test_one_append_of_many_sizes(store: ShardStore) -> None:
    shards = [make_shard(size) for size in SIZES]
    await store.append(shards)
    assert await _holds(store, *reversed(shards))


async def test_info_survives_in_every_field(store: ShardStore) -> None:
    shard = make_shard(100, generation=2**64 - 1, index=255, k=20, n=255)
    encoding = Encoding.COMPRESSED | Encoding.ENCRYPTED | Encoding.SEGMENT_LIST
    info = shard.info._replace(encoding=encoding, segment_bytes=2**40)
    await store.append([ShardRecord(info, shard.payload)])
    (found,) = await store.read([shard.address])
    assert isinstance(found, ShardRecord)
    assert found.info == info
    assert [listed async for listed in store.list()] == [info]


async def test_nothing_in_nothing_out(store: ShardStore) -> None:
    await store.append([])
    await store.delete([])
    assert await store.read([]) == []
    assert await _addresses(store) == []


async def test_an_absent_shard_is_an_answer_and_not_an_error(store: ShardStore) -> None:
    here, absent = make_shard(10, 1), make_shard(10, 2)
    await store.append([here])
    found = await store.read([absent.address, here.address, absent.address])
    assert found[0] == found[2] == ShardMissing(absent.address)
    assert isinstance(found[1], ShardRecord)


async def test_generations_and_indexes_are_different_shards(store: ShardStore) -> None:
    shards = [make_shard(50, 1, generation, index) for generation in (1, 2) for index in (0, 8)]
    await store.append(shards)
    await store.delete([shards[0].address])
    assert await _holds(store, *shards[1:])
    assert await store.read([shards[0].address]) == [ShardMissing(shards[0].address)]


@pytest.mark.parametrize(("old", "new"), [(10, 20), (10, 100 * KIB), (100 * KIB, 10)])
async def test_the_last_append_of_an_address_wins(store: ShardStore, old: int, new: int) -> None:
    first, other = make_shard(old, 1), make_shard(new, 2)
    second = ShardRecord(other.info._replace(address=first.address), other.payload)
    await store.append([first])
    await store.append([second])
    assert await _holds(store, second)
    assert (await store.stat()).shards == 1


async def test_a_wrong_payload_stores_nothing_of_its_call(store: ShardStore) -> None:
    good, bad = make_shard(10, 1), make_shard(10, 2)
    flipped = ShardRecord(bad.info, bytes([bad.payload[0] ^ 1]) + bytes(bad.payload[1:]))
    for records in ([good, flipped], [flipped, good]):
        with pytest.raises(Corrupt):
            await store.append(records)
        assert await _addresses(store) == []


async def test_a_payload_of_another_length_is_corrupt(store: ShardStore) -> None:
    shard = make_shard(10)
    with pytest.raises(Corrupt):
        await store.append([ShardRecord(shard.info, bytes(shard.payload) + b"\0")])


async def test_one_call_that_fails_leaves_its_neighbours_alone(store: ShardStore) -> None:
    shards = [make_shard(100, seed) for seed in range(20)]
    bad = ShardRecord(make_shard(100, 99).info, b"x" * 100)
    calls = [store.append([shard]) for shard in shards]
    outcomes = await asyncio.gather(*calls[:10], store.append([bad]), *calls[10:],
                                    return_exceptions=True)  # fmt: skip
    assert [type(outcome) for outcome in outcomes if outcome is not None] == [Corrupt]
    assert await _holds(store, *shards)


async def test_deleting_is_repeatable(store: ShardStore) -> None:
    gone, kept = make_shard(10, 1), make_shard(10, 2)
    await store.append([gone, kept])
    for _ in range(2):
        await store.delete([gone.address, make_shard(10, 3).address])
        assert await _addresses(store) == [kept.address]
    assert (await store.stat()).shards == 1


async def test_a_deleted_shard_may_come_back(store: ShardStore) -> None:
    shard = make_shard(10)
    await store.append([shard])
    await store.delete([shard.address])
    await store.append([shard])
    assert await _holds(store, shard)
    assert (await store.stat()).shards == 1


async def test_the_list_is_in_order_and_starts_after(store: ShardStore) -> None:
    shards = [make_shard(10, seed, 1 + seed % 2, seed % 9) for seed in range(30)]
    await store.append(shards)
    expected = sorted(shard.address for shard in shards)
    assert await _addresses(store) == expected
    for at in (0, 13, 29):
        assert await _addresses(store, expected[at]) == expected[at + 1 :]
    between = expected[7]._replace(index=expected[7].index + 1)
    assert await _addresses(store, between) == expected[8:]


async def test_a_long_list_has_every_shard_once(store: ShardStore) -> None:
    shards = [make_shard(16, seed) for seed in range(2100)]
    await store.append(shards)
    assert await _addresses(store) == sorted(shard.address for shard in shards)


@pytest.mark.parametrize("size", [10, 64 * KIB, 100 * KIB])
async def test_a_payload_arrives_where_it_was_wanted(store: ShardStore, size: int) -> None:
    shard, place, too_small = make_shard(size), bytearray(size), bytearray(size - 1)
    await store.append([shard])
    fitting, other = await store.read(
        [shard.address] * 2, [memoryview(place), memoryview(too_small)]
    )
    assert isinstance(fitting, ShardRecord)
    assert isinstance(other, ShardRecord)
    assert bytes(fitting.payload) == bytes(other.payload) == shard.payload
    assert too_small == bytes(size - 1)


@pytest.mark.parametrize("size", [1000, 100 * KIB])
async def test_a_store_keeps_no_reference_to_a_payload(store: ShardStore, size: int) -> None:
    shard = make_shard(size)
    payload = bytearray(shard.payload)
    await store.append([ShardRecord(shard.info, payload)])
    payload[:] = bytes(size)
    assert await _holds(store, shard)


async def test_the_figures_follow(store: ShardStore) -> None:
    before = await store.stat()
    assert (before.shards, before.read_only) == (0, False)
    assert 0 < before.free_bytes <= before.capacity_bytes
    await store.append([make_shard(MIB)])
    after = await store.stat()
    assert after.shards == 1
    assert after.used_bytes >= before.used_bytes + MIB


async def test_many_callers_at_once(store: ShardStore) -> None:
    shards = [make_shard(size, seed) for seed in range(40) for size in (300, 70 * KIB)]
    await asyncio.gather(*(store.append([shard]) for shard in shards))
    await asyncio.gather(*(store.delete([shard.address]) for shard in shards[::2]))
    assert await _holds(store, *shards[1::2])
    assert (await store.stat()).shards == 40


async def test_a_scripted_fault_is_raised_in_its_turn() -> None:
    with scripted(MemoryStore()) as store:
        store.script("append", NodeTimeout("slow"), None, Unavailable("gone"))
        for expected in (NodeTimeout, None, Unavailable, None):
            if expected is None:
                await store.append([make_shard(1)])
            else:
                with pytest.raises(expected):
                    await store.append([make_shard(1)])


def test_a_scripted_fault_that_is_not_used_fails_its_test() -> None:
    with pytest.raises(AssertionError, match="never used"), scripted(MemoryStore()) as store:
        store.script("read", NodeTimeout("slow"))

"""Shards that fit their checksums and each other, and yet are not the bytes that their segment's id
says: as if a bit had flipped in memory between the hash and the code, or a rebuild had taken over
wrong checksums."""

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from common.errors import Unreadable
from common.hashing import blake3_digest
from common.ids import ContentId
from coordinator import write_segment
from coordinator.metadata import Metadata
from tests.memory_cluster import MemoryCluster, body, get, paths
from tests.metadata_parts import notice
from tests.reports import incoming
from tests.torture.one_process import Front, Store

DATA = random.Random(1).randbytes(50_000)
ID = ContentId(blake3_digest(DATA))
ALL = (1 << 9) - 1


@contextmanager
def flipping() -> Iterator[None]:
    """What is written within the block is not what was hashed."""
    encode = write_segment.encode_stripe

    def flipped(codec: Any, stripe: memoryview, *rest: Any) -> Any:
        stripe[100] ^= 1
        return encode(codec, stripe, *rest)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(write_segment, "encode_stripe", flipped)
        yield


async def found_by_scrub(store: Store) -> Front:
    front = store.fronts[0]
    with flipping():
        await front.put(DATA)
    await store.pass_time(5)
    await front.work("scrub")
    assert await queued(front) == [(0, ALL)]
    return front


async def queued(front: Front) -> list[tuple[Any, ...]]:
    query = "SELECT survivors, bad FROM repair_queue"
    return await front.metadata._read(lambda sql: sql.rows(query))


async def test_repair_does_not_call_them_whole(store: Store) -> None:
    front = await found_by_scrub(store)
    await front.work("repair")
    assert await queued(front) == [(0, ALL)]
    verified = await front.metadata._read(lambda sql: sql.rows("SELECT verified_at FROM segment"))
    assert verified == [(0,)]


async def test_repair_moves_and_rebuilds_nothing_of_them(store: Store) -> None:
    """Nor does it need a scrub to find them."""
    front = store.fronts[0]
    with flipping():
        await front.put(DATA)
    (stored,) = (await front.reads.find(ID)).segments
    holder = store.nodes[stored.layout[2]].store
    assert holder is not None
    await holder.delete([stored.address(2)])
    await front.metadata.sweeping.note_missing(stored.layout[2], [stored.address(2)])
    await front.work("repair")
    assert await queued(front) == [(0, ALL)]
    assert not await store.nodes[stored.layout[2]].has(stored.address(2))


async def test_whoever_has_the_bytes_heals_the_content(store: Store) -> None:
    front = await found_by_scrub(store)
    await front.work("repair")
    assert str((await front.put(DATA)).durability) == "9/9; survives=3"
    assert await front.get(ID) == DATA
    await front.work("repair")
    assert await queued(front) == []


async def test_reads_do_not_give_them_out(store: Store) -> None:
    """Not a range of them either, and not while most of their nodes are away."""
    front = await found_by_scrub(store)
    for start, end in ((0, None), (40_000, 41_000)):
        with pytest.raises(Unreadable):
            await front.get(ID, start, end)
    away = [6, 7, 8, 9]
    for number in away:
        await store.kill(number)
    await front.work("repair")
    for number in away:
        await store.restart(number)
    with pytest.raises(Unreadable):
        await front.get(ID)


async def test_what_was_in_memory_is_not_given_out_either(metadata: Metadata) -> None:
    """Nor when somebody has healed the content since."""
    nodes = MemoryCluster()
    for number in nodes.stores:
        await metadata.save_report(incoming(number))
    with paths(metadata, nodes, len(DATA), cache_bytes=1 << 22) as (writes, reads):
        with flipping():
            await writes.store(body(DATA), len(DATA))
        assert await get(reads, ID) != DATA  # nobody has looked yet
        stored = (await reads.find(ID)).segments[0]
        await metadata.queue_repair(notice(stored, *range(9)))
        with pytest.raises(Unreadable):
            await get(reads, ID)
        await writes.store(body(DATA), len(DATA))
        assert await get(reads, ID) == DATA

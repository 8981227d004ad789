"""Reads that go on while repair, drain and uploads change where the shards of a content lie: what
has begun with an old layout ends with the right bytes, and raises no false alarm."""

import random
from collections.abc import Awaitable, Callable

import pytest

from common.errors import Unreadable
from common.ids import ContentId
from coordinator.check import StripeCheck
from tests.torture.one_process import SEGMENT_BYTES, Front, Store

DATA = random.Random(1).randbytes(9 * SEGMENT_BYTES)


async def read_while(front: Front, id_: ContentId, happens: Callable[[], Awaitable[None]]) -> bytes:
    """The content. Behind its first segment it `happens`."""
    manifest = await front.reads.find(id_)
    got = b""
    async with front.reads.open(manifest, 0, manifest.size_bytes) as pieces:
        async for piece in pieces:
            got += bytes(piece.data)
            piece.release()
            if len(got) == SEGMENT_BYTES:
                await happens()
    await front.settle()
    return got


async def drain(front: Front, *numbers: int) -> None:
    """Until the nodes are empty."""
    for number in numbers:
        await front.draining.drain(f"node-{number}", force=True, dry_run=False)
    for job in ("repair", "outbox"):
        await front.work(job)


async def queued(front: Front) -> int:
    return (await front.metadata.counts())["repair_queue"]


@pytest.mark.parametrize("drained", [1, 3, 4, 5])
async def test_a_drain_does_not_cut_a_read_off(store: Store, drained: int) -> None:
    front = store.fronts[0]
    id_ = (await front.put(DATA)).id
    assert await read_while(front, id_, lambda: drain(front, *range(1, drained + 1))) == DATA
    assert await queued(front) == 0


async def test_a_range_is_read_from_where_it_lies_now(store: Store) -> None:
    front = store.fronts[0]
    manifest = await front.reads.find((await front.put(DATA)).id)
    await drain(front, 1, 2, 3, 4)
    for start in range(0, len(DATA), SEGMENT_BYTES // 2):
        assert await front.reads.read_small(manifest, start, start + 100) == DATA[start:][:100]
    await front.settle()
    assert await queued(front) == 0


async def test_what_is_written_anew_meanwhile_is_read(store: Store) -> None:
    """A client who still has the bytes heals the content under the reader."""
    first, second = store.fronts
    id_ = (await first.put(DATA)).id
    lost = (await first.reads.find(id_)).segments[7]
    for index in range(4):
        held = store.nodes[lost.layout[index]].store
        assert held is not None
        await held.delete([lost.address(index)])

    async def heal() -> None:
        with pytest.raises(Unreadable):
            await second.get(id_)
        await second.settle()
        await second.put(DATA)
        await second.work("outbox")

    assert await read_while(first, id_, heal) == DATA
    assert await queued(first) == 0


async def test_what_is_lost_stays_unreadable(store: Store) -> None:
    front = store.fronts[0]
    id_ = (await front.put(DATA)).id
    for number in (1, 2, 3, 4):
        await store.kill(number)
    with pytest.raises(Unreadable, match="4 of 9 shards"):
        await front.get(id_)


async def test_a_check_of_what_was_moved_finds_it_whole(store: Store) -> None:
    front = store.fronts[0]
    manifest = await front.reads.find((await front.put(DATA)).id)
    await drain(front, 1)
    found = [await StripeCheck(front.services).check(segment) for segment in manifest.segments]
    assert all(finding.is_whole for finding in found)
    assert await queued(front) == 0

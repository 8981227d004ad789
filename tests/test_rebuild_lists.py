"""Segment lists in a rebuild of the metadata, and contents that only look like lists."""

import os
from collections.abc import Sequence

import pytest

from common.errors import NotFound, Unreadable
from common.hashing import blake3_digest
from common.ids import ContentId, SegmentId
from common.segment_list import SegmentList
from coordinator.metadata import Metadata
from coordinator.read_path import ReadPath
from coordinator.write_path import WritePath
from tests.memory_cluster import MemoryCluster, Sweeper, get, paths, put
from tests.metadata_parts import Clock
from tests.test_rebuild import forget_everything, rebuild

PART = 4096
VICTIM = b"the victim's bytes"


def listing(content: bytes, pieces: Sequence[bytes]) -> bytes:
    """What somebody may store who knows the format."""
    entries = tuple((SegmentId(blake3_digest(piece)), len(piece)) for piece in pieces)
    return SegmentList(ContentId(content), sum(map(len, pieces)), entries).pack()


def pieces_of(data: bytes) -> list[bytes]:
    return [data[at : at + PART] for at in range(0, len(data), PART)]


def listed() -> tuple[bytes, bytes]:
    """A content of several segments, and the list of them."""
    data = os.urandom(10_000)
    return data, listing(blake3_digest(data), pieces_of(data))


async def test_a_list_that_somebody_has_stored_as_a_content_is_one_all_the_same(
    metadata: Metadata, nodes: MemoryCluster
) -> None:
    data, packed = listed()
    with paths(metadata, nodes, segment_bytes=PART) as (writes, reads):
        await put(writes, packed)
        id_ = await put(writes, data)
        await forget_everything(metadata)
        await rebuild(metadata, nodes, reads)
        assert await get(reads, id_) == data
        assert await get(reads, ContentId(blake3_digest(packed))) == packed


@pytest.mark.parametrize("times", [0, 2])
async def test_a_list_that_somebody_stores_as_a_content_afterwards_is_one_all_the_same(
    metadata: Metadata, nodes: MemoryCluster, times: int
) -> None:
    """And so is the list that this gets then."""
    data = os.urandom(10_000)
    packed = [listing(blake3_digest(data), pieces_of(data))]
    for _ in range(times):
        packed.append(listing(blake3_digest(packed[-1]), [packed[-1]]))
    with paths(metadata, nodes, segment_bytes=PART) as (writes, reads):
        contents = {await put(writes, each): each for each in [data, *packed]}
        for _ in range(2):
            for id_, each in contents.items():
                assert await get(reads, id_) == each
            await forget_everything(metadata)
            await rebuild(metadata, nodes, reads)
        assert (await metadata.counts())["pin"] == len(contents)


async def test_a_lost_content_that_is_healed_as_a_list_is_both(
    metadata: Metadata, nodes: MemoryCluster
) -> None:
    """By the upload of the content that it lists."""
    data, packed = listed()
    with paths(metadata, nodes, segment_bytes=PART) as (writes, reads):
        list_id = await put(writes, packed)
        for number in range(1, 5):
            nodes.stores[number].records.clear()
        with pytest.raises(Unreadable):
            await get(reads, list_id)
        await reads.settle()
        id_ = await put(writes, data)
        await forget_everything(metadata)
        await rebuild(metadata, nodes, reads)
        assert await get(reads, list_id) == packed
        assert await get(reads, id_) == data


async def test_a_list_that_was_stored_as_a_content_is_collected_with_both(
    metadata: Metadata, nodes: MemoryCluster, clock: Clock
) -> None:
    sweeper = Sweeper(metadata, nodes, clock)
    data, packed = listed()
    with paths(metadata, nodes, segment_bytes=PART) as (writes, reads):
        ids = [await put(writes, each) for each in (data, packed)]
        for at, id_ in enumerate(ids):
            await metadata.unpin(id_)
            for _ in range(2):
                await sweeper.later()
                await metadata.collect(100)
                await sweeper.outbox()
            for other, each in list(zip(ids, (data, packed), strict=True))[at + 1 :]:
                assert await get(reads, other) == each
    assert nodes.shards() == set()


@pytest.mark.parametrize("is_there", [True, False])
async def test_a_made_up_list_gives_no_content_other_bytes(
    metadata: Metadata, nodes: MemoryCluster, ends: tuple[WritePath, ReadPath], is_there: bool
) -> None:
    """Also not one that was not found, as its nodes are away."""
    writes, reads = ends
    id_ = ContentId(blake3_digest(VICTIM))
    if is_there:
        await put(writes, VICTIM)
    evil = await put(writes, b"evil" * 10)
    packed = await put(writes, listing(id_, [b"evil" * 10]))
    await forget_everything(metadata)
    await rebuild(metadata, nodes, reads)
    if is_there:
        assert await get(reads, id_) == VICTIM
    else:
        with pytest.raises(NotFound):
            await get(reads, id_)
    assert await get(reads, evil) == b"evil" * 10
    assert await get(reads, packed) == listing(id_, [b"evil" * 10])


@pytest.mark.parametrize("is_true", [True, False])
async def test_a_made_up_list_hides_no_content(
    metadata: Metadata, nodes: MemoryCluster, ends: tuple[WritePath, ReadPath], is_true: bool
) -> None:
    """Even if there could be a content of such segments."""
    writes, reads = ends
    pieces = [VICTIM, b"and more"]
    content = blake3_digest(b"".join(pieces)) if is_true else bytes(32)
    ids = [await put(writes, piece) for piece in pieces]
    await put(writes, listing(content, pieces))
    for _ in range(2):
        await forget_everything(metadata)
        await rebuild(metadata, nodes, reads)
        await rebuild(metadata, nodes, reads)
        assert [await get(reads, id_) for id_ in ids] == pieces


@pytest.mark.parametrize("size_bytes", [1, len(VICTIM) + 1, (1 << 64) - 1])
async def test_a_made_up_list_with_other_sizes(
    metadata: Metadata, nodes: MemoryCluster, ends: tuple[WritePath, ReadPath], size_bytes: int
) -> None:
    writes, reads = ends
    id_, missing = await put(writes, VICTIM), SegmentId(blake3_digest(b"missing"))
    for entries in [(SegmentId(id_), size_bytes)], [(SegmentId(id_), len(VICTIM)), (missing, 1)]:
        total = sum(size for _, size in entries)
        await put(writes, SegmentList(ContentId(bytes(32)), total, tuple(entries)).pack())
    await forget_everything(metadata)
    await rebuild(metadata, nodes, reads)
    assert await get(reads, id_) == VICTIM
    assert (await metadata.counts())["content"] == 0

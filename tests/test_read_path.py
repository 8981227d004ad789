"""The read path's memory: whatever becomes of a reader, its buffers come back."""

import asyncio
from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace
from typing import cast

import pytest

from common.codec import Codec
from common.errors import Unreadable
from common.ids import ContentId, SegmentId
from common.shards import Encoding
from coordinator.buffers import StripeBuffers
from coordinator.config import SEGMENT_BYTES, Config
from coordinator.metadata import Manifest, StoredSegment
from coordinator.read_path import ReadPath
from coordinator.read_segment import R, SegmentReads, Slice
from coordinator.services import Services
from tests.bundles import Ends
from tests.memory_cluster import MemoryCluster, get, put


class NoShards(SegmentReads):
    """Reads succeed at once, without nodes."""

    async def read(self, part: Slice, rows_for: Callable[[StoredSegment], R]) -> R:
        return rows_for(part.segment)


async def test_a_content_that_lacks_a_segment_is_unreadable_and_not_shorter() -> None:
    """What follows the gap would come in the place of what is lost."""
    segment = StoredSegment(
        SegmentId(b"s" * 32),
        SEGMENT_BYTES,
        Encoding.PLAIN,
        6,
        9,
        1,
        tuple(range(1, 10)),
        bytes(288),
    )
    whole = Manifest(ContentId(b"c" * 32), 2 * SEGMENT_BYTES, 0, (segment, segment))
    lacking = replace(whole, segments=(segment,))

    async def find(manifest: Manifest) -> Manifest:
        async def found(id_: ContentId) -> Manifest:
            return manifest

        config = Config(data="unused", secret_file="unused")
        metadata, buffers = SimpleNamespace(find_content=found), StripeBuffers(config.buffer_bytes)
        services = SimpleNamespace(config=config, metadata=metadata, buffers=buffers)
        return await ReadPath(cast(Services, services)).find(manifest.id)

    assert await find(whole) is whole
    with pytest.raises(Unreadable, match="has lost segments"):
        await find(lacking)


async def test_a_reader_that_leaves_at_once_gives_every_buffer_back() -> None:
    config = Config(data="unused", secret_file="unused")
    buffers = StripeBuffers(config.buffer_bytes)
    services = cast(
        Services, SimpleNamespace(config=config, metadata=None, buffers=buffers, codec=Codec(6, 9))
    )
    reads = ReadPath(services)
    reads._segments = NoShards(services)
    segments = tuple(
        StoredSegment(
            SegmentId(bytes([number]) * 32), SEGMENT_BYTES, Encoding.PLAIN, 6, 9, 1,
            tuple(range(1, 10)), bytes(288),
        )
        for number in range(6)
    )  # fmt: skip
    size_bytes = len(segments) * SEGMENT_BYTES
    manifest = Manifest(ContentId(b"c" * 32), size_bytes, 0, segments)
    for _ in range(3):
        with pytest.raises(ConnectionResetError):
            async with reads.open(manifest, 0, size_bytes) as pieces:
                async for piece in pieces:
                    assert buffers.used_bytes > SEGMENT_BYTES  # the next are being fetched
                    piece.abandon()
                    raise ConnectionResetError  # before the fetches have taken a step
        await asyncio.sleep(0)
        assert buffers.used_bytes == 0


async def test_an_error_holds_no_buffer(nodes: MemoryCluster, ends: Ends) -> None:
    """Nor do the frames that it went through, for as long as somebody keeps it."""
    writes, reads = ends
    id_ = await put(writes, bytes(4_000))
    for store in list(nodes.stores.values())[:4]:
        store.records.clear()
    with pytest.raises(Unreadable) as kept:
        await get(reads, id_)
    await reads.settle()
    assert reads._buffers.used_bytes == 0, kept

"""Small uploads that come together, for tests."""

import asyncio
import os
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager

from common.hashing import blake3_digest
from common.ids import ContentId, SegmentId
from common.shards import Encoding
from coordinator.bundler import Small
from coordinator.metadata import Metadata
from coordinator.read_path import ReadPath
from coordinator.rebundle import RebundleWorker
from coordinator.throttle import Throttle
from coordinator.write_path import WritePath
from coordinator.write_upload import Stored
from tests.memory_cluster import MemoryCluster, Sweeper, body
from tests.metadata_parts import Clock

Ends = tuple[WritePath, ReadPath]


def ids_of(contents: Sequence[bytes]) -> list[ContentId]:
    return [ContentId(blake3_digest(data)) for data in contents]


def small(count: int, size_bytes: int = 300) -> list[bytes]:
    return [os.urandom(size_bytes) for _ in range(count)]


async def put_all(writes: WritePath, contents: Sequence[bytes]) -> list[Stored]:
    return await asyncio.gather(*(writes.store(body(data), len(data)) for data in contents))


@asynccontextmanager
async def another_on_its_way(writes: WritePath) -> AsyncIterator[None]:
    """Uploads that begin within the block wait, until it ends or a bundle is full."""
    async with writes.bundler.turn(Small(ContentId(bytes(32)), memoryview(b"another"))) as placed:
        assert placed is None
        yield


async def all_wait(writes: WritePath, puts: Sequence["asyncio.Future[Stored]"]) -> None:
    """But for those that are done."""
    while len(writes.bundler._waiting) + sum(put.done() for put in puts) < len(puts):
        await asyncio.sleep(0)


def begun(writes: WritePath, contents: Sequence[bytes]) -> list["asyncio.Future[Stored]"]:
    return [asyncio.ensure_future(writes.store(body(data), len(data))) for data in contents]


async def bundled(ends: Ends, contents: Sequence[bytes]) -> list[Stored]:
    """Uploads that wait while another is being written."""
    async with another_on_its_way(ends[0]):
        puts = begun(ends[0], contents)
        await all_wait(ends[0], puts)
    return await asyncio.gather(*puts)


async def bundles_of(reads: ReadPath, contents: Sequence[bytes]) -> set[SegmentId]:
    manifests = [await reads.find(id_) for id_ in ids_of(contents)]
    assert all(m.start_bytes is not None and len(m.segments) == 1 for m in manifests)
    assert all(m.segments[0].encoding is Encoding.BUNDLE for m in manifests)
    return {m.segments[0].id for m in manifests}


def rebundler(ends: Ends, metadata: Metadata) -> RebundleWorker:
    return RebundleWorker(metadata, ends[1], ends[0].bundler, Throttle(float("inf")))


async def delete(
    metadata: Metadata, nodes: MemoryCluster, clock: Clock, ids: Iterable[ContentId]
) -> int:
    """And let the grace period pass; how many are collected."""
    for id_ in ids:
        await metadata.unpin(id_)
    await Sweeper(metadata, nodes, clock).later()
    return await metadata.collect(100)

"""Small uploads that come together, for tests."""

import asyncio
import os
from collections.abc import Sequence

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
from tests.memory_cluster import body

Ends = tuple[WritePath, ReadPath]


def ids_of(contents: Sequence[bytes]) -> list[ContentId]:
    return [ContentId(blake3_digest(data)) for data in contents]


def small(count: int, size_bytes: int = 300) -> list[bytes]:
    return [os.urandom(size_bytes) for _ in range(count)]


async def put_all(writes: WritePath, contents: Sequence[bytes]) -> list[Stored]:
    return await asyncio.gather(*(writes.store(body(data), len(data)) for data in contents))


async def bundled(ends: Ends, contents: Sequence[bytes]) -> list[Stored]:
    """Uploads that wait while another is being written."""
    writes = ends[0]
    turn = writes.bundler.turn(Small(ContentId(os.urandom(32)), memoryview(b"first")))
    assert await turn.__aenter__() is None
    puts = asyncio.gather(*(writes.store(body(data), len(data)) for data in contents))
    while len(writes.bundler._waiting) < len(set(contents)):
        await asyncio.sleep(0)
    await turn.__aexit__(None, None, None)
    return await puts


async def bundles_of(reads: ReadPath, contents: Sequence[bytes]) -> set[SegmentId]:
    manifests = [await reads.find(id_) for id_ in ids_of(contents)]
    assert all(m.start_bytes is not None and len(m.segments) == 1 for m in manifests)
    assert all(m.segments[0].encoding is Encoding.BUNDLE for m in manifests)
    return {m.segments[0].id for m in manifests}


def rebundler(ends: Ends, metadata: Metadata) -> RebundleWorker:
    return RebundleWorker(metadata, ends[1], ends[0].bundler, Throttle(float("inf")))

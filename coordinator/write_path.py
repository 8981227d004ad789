"""The write path: bytes come in, a durable and visible content goes out, or nothing at all.

Segments are cut as the bytes arrive. Each is hashed, looked up (dedup), encoded and written in a
task of its own, a few at a time; the transaction that makes the content visible comes last.
"""

import asyncio
import logging
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

from blake3 import blake3

from common.codec import Codec
from common.errors import (
    BadRequest,
    IdMismatch,
    IncompleteBody,
    SegmentGone,
    SessionLost,
    SixfoldError,
    TooLarge,
)
from common.hashing import blake3_digest
from common.ids import ContentId, SegmentId, ShardAddress
from common.segment_list import SegmentList
from common.shards import Encoding, ShardInfo, ShardRecord
from coordinator.buffers import StripeBuffer, StripeBuffers
from coordinator.cluster import Cluster
from coordinator.config import Config
from coordinator.durability import Durability, durability_of
from coordinator.metadata import Metadata, NewContent, ShardsOnNode, StoredSegment
from coordinator.offload import Offload
from coordinator.write_stripe import StripeWrite

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Stored:
    """The answer to an upload. `new` is false if the content was visible before."""

    id: ContentId
    size_bytes: int
    durability: Durability
    new: bool


class WritePath:
    """Stores contents. One for the process."""

    def __init__(
        self,
        config: Config,
        codec: Codec,
        cluster: Cluster,
        metadata: Metadata,
        buffers: StripeBuffers,
        offload: Offload,
    ) -> None:
        self.config, self.codec, self.cluster = config, codec, cluster
        self.metadata, self.buffers, self.offload = metadata, buffers, offload
        self._cleanups: set[asyncio.Task[None]] = set()

    async def store(
        self,
        body: AsyncIterator[bytes],
        declared_bytes: int | None = None,
        expected: ContentId | None = None,
    ) -> Stored:
        """Store what `body` yields. `declared_bytes`, if known, only sizes the first buffer.

        Raises TooLarge, IdMismatch, Overloaded, Undurable, StorageFull, or what `body` raises;
        then nothing is visible and what was written is deleted.
        """
        upload = _Upload(self)
        try:
            return await upload.run(body, declared_bytes, expected)
        except BaseException as error:
            self._discard(upload.leftovers)
            if isinstance(error, BaseExceptionGroup):
                raise _first_cause(error) from None
            raise

    async def settle(self) -> None:
        """Wait until what failed uploads left behind is on its way out."""
        while self._cleanups:
            await asyncio.wait(self._cleanups)

    def _discard(self, leftovers: list[ShardsOnNode]) -> None:
        if leftovers:
            task = asyncio.create_task(self._queue_deletes(leftovers), name="discard upload")
            self._cleanups.add(task)
            task.add_done_callback(self._cleanups.discard)

    async def _queue_deletes(self, leftovers: list[ShardsOnNode]) -> None:
        try:
            await self.metadata.add_deletes(leftovers)
        except SixfoldError as error:
            log.error("shards of a failed upload stay behind as orphans: %s", error)


@dataclass(slots=True)
class _Upload:
    """The state of one upload. `leftovers` is what must be deleted if it fails from here."""

    path: WritePath
    leftovers: list[ShardsOnNode] = field(default_factory=list)
    written: dict[SegmentId, StoredSegment] = field(default_factory=dict)
    unconfirmed: list[ShardsOnNode] = field(default_factory=list)
    _segments: list[asyncio.Task[StoredSegment]] = field(default_factory=list)
    _in_work: dict[SegmentId, asyncio.Future[StoredSegment]] = field(default_factory=dict)
    _hash_turn: asyncio.Lock = field(default_factory=asyncio.Lock)
    _size_bytes: int = 0

    async def run(
        self, body: AsyncIterator[bytes], declared_bytes: int | None, expected: ContentId | None
    ) -> Stored:
        async with asyncio.TaskGroup() as group:
            content_hash = await self._take_in(group, body, declared_bytes)
        segments = [task.result() for task in self._segments]
        id_ = ContentId(content_hash.digest() if content_hash else segments[0].id)
        if expected is not None and id_ != expected:
            raise IdMismatch(f"the bytes have the id {id_}, not {expected}")
        return await self._publish(id_, segments)

    async def _take_in(
        self, group: asyncio.TaskGroup, body: AsyncIterator[bytes], declared_bytes: int | None
    ) -> blake3 | None:
        """Cut the body into segments and start a task for each. The content's hash, if it has
        more than one segment."""
        config = self.path.config
        room_bytes = config.segment_bytes
        if declared_bytes is not None:
            room_bytes = min(room_bytes, declared_bytes)
        filling = _Filling(await self._buffer(room_bytes), room_bytes)
        content_hash: blake3 | None = None
        try:
            async for chunk in body:
                self._count(len(chunk), declared_bytes)
                rest = memoryview(chunk)
                while rest := filling.take(rest):
                    content_hash = content_hash or blake3()
                    self._start_segment(group, filling, content_hash)
                    filling = _Filling(await self._next_buffer(), config.segment_bytes)
            if declared_bytes is not None and self._size_bytes < declared_bytes:
                raise IncompleteBody(f"{self._size_bytes} of {declared_bytes} bytes arrived")
            self._start_segment(group, filling, content_hash)
        except BaseException:
            filling.buffer.release()
            raise
        return content_hash

    def _count(self, chunk_bytes: int, declared_bytes: int | None) -> None:
        self._size_bytes += chunk_bytes
        if declared_bytes is not None and self._size_bytes > declared_bytes:
            raise BadRequest(f"more than the declared {declared_bytes} bytes arrived")
        if self._size_bytes > self.path.config.max_upload_bytes:
            raise TooLarge(f"an upload has at most {self.path.config.max_upload_bytes} bytes")

    async def _buffer(self, segment_bytes: int) -> StripeBuffer:
        codec = self.path.codec
        stripe_bytes = codec.n * codec.shard_bytes(segment_bytes)
        return await self.path.buffers.acquire(stripe_bytes, self.path.config.admission_wait_s)

    async def _next_buffer(self) -> StripeBuffer:
        """A further buffer if there is room, else one of our own when its segment is stored."""
        codec, config = self.path.codec, self.path.config
        stripe_bytes = codec.n * codec.shard_bytes(config.segment_bytes)
        while True:
            running = [task for task in self._segments if not task.done()]
            if len(running) < config.segments_in_flight:
                buffer = self.path.buffers.try_acquire(stripe_bytes)
                if buffer is not None:
                    return buffer
                if not running:
                    return await self.path.buffers.acquire(stripe_bytes, config.write_timeout_s)
            await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)

    def _start_segment(
        self, group: asyncio.TaskGroup, filling: "_Filling", content_hash: blake3 | None
    ) -> None:
        store = self._store_segment(filling.buffer, filling.size_bytes, content_hash)
        self._segments.append(group.create_task(store))

    async def _store_segment(
        self, buffer: StripeBuffer, size_bytes: int, content_hash: blake3 | None
    ) -> StoredSegment:
        """Hash, look up, and write unless it is there. Owns the buffer."""
        with buffer:
            id_ = await self._hash(buffer.memory[:size_bytes], content_hash)
            twin = self._in_work.get(id_)
            if twin is not None:
                return await asyncio.shield(twin)
            result: asyncio.Future[StoredSegment] = asyncio.get_running_loop().create_future()
            self._in_work[id_] = result
            try:
                result.set_result(
                    await self._find_or_write(id_, buffer, size_bytes, Encoding.PLAIN)
                )
            finally:
                if not result.done():
                    result.cancel()
            return result.result()

    async def _hash(self, plain: memoryview, content_hash: blake3 | None) -> SegmentId:
        """The segment's id. The content's hash takes the segments in their order."""

        def both() -> bytes:
            if content_hash is not None:
                content_hash.update(plain)
            return blake3_digest(plain)

        async with self._hash_turn:
            return SegmentId(await self.path.offload.run(len(plain), both))

    async def _find_or_write(
        self, id_: SegmentId, buffer: StripeBuffer, size_bytes: int, encoding: Encoding
    ) -> StoredSegment:
        known = await self.path.metadata.find_segment(id_)
        if known is not None:
            if not known.fresh:
                await self.path.metadata.touch_segment(id_)
            return known.stored
        return await self._write(id_, buffer, size_bytes, encoding)

    async def _write(
        self, id_: SegmentId, buffer: StripeBuffer, size_bytes: int, encoding: Encoding
    ) -> StoredSegment:
        path, codec = self.path, self.path.codec
        shard_bytes = codec.shard_bytes(size_bytes)
        placement = path.cluster.place(id_, shard_bytes, codec.k, codec.n)
        stripe = buffer.memory[: codec.n * shard_bytes]
        generation = path.metadata.new_generation()
        records = await path.offload.run(
            size_bytes,
            lambda: _encode(codec, stripe, size_bytes, id_, generation, encoding),
        )
        write = StripeWrite(path.cluster, records, placement, codec.k, path.config.straggler_s)
        try:
            result = await write.run()
        finally:
            self.leftovers += write.written()
            if not write.all_arrived:
                buffer.abandon()
        if shortfall := write.shortfall():
            raise shortfall
        self.unconfirmed += result.unconfirmed
        checksums = b"".join(record.info.checksum for record in records)
        stored = StoredSegment(
            id_, size_bytes, encoding, codec.k, codec.n, generation, result.layout, checksums
        )
        self.written[id_] = stored
        return stored

    async def _publish(self, id_: ContentId, segments: list[StoredSegment]) -> Stored:
        """The transaction that makes it visible."""
        segment_list = await self._write_list(id_, segments) if len(segments) > 1 else None
        new = NewContent(
            id_,
            self._size_bytes,
            segments,
            segment_list,
            list(self.written.values()),
            self.unconfirmed,
        )
        # Once COMMIT is on its way, its fate may be unknown: then nothing may be cleaned up.
        self.leftovers, leftovers = [], self.leftovers
        try:
            was_new = await self.path.metadata.commit_content(new)
        except (SessionLost, SegmentGone):
            self.leftovers = leftovers  # refused: not a trace of it is in the database
            raise
        return Stored(id_, self._size_bytes, durability_of(segments), was_new)

    async def _write_list(self, id_: ContentId, segments: list[StoredSegment]) -> StoredSegment:
        """Store the segment list as a segment of its own."""
        entries = [(segment.id, segment.size_bytes) for segment in segments]
        packed = SegmentList(id_, self._size_bytes, entries).pack()
        with await self._buffer(len(packed)) as buffer:
            buffer.memory[: len(packed)] = packed
            list_id = SegmentId(blake3_digest(packed))
            return await self._find_or_write(list_id, buffer, len(packed), Encoding.SEGMENT_LIST)


class _Filling:
    """A segment that is being cut: a buffer and how much of it is filled."""

    __slots__ = ("_room_bytes", "buffer", "size_bytes")

    def __init__(self, buffer: StripeBuffer, room_bytes: int) -> None:
        self.buffer, self._room_bytes, self.size_bytes = buffer, room_bytes, 0

    def take(self, data: memoryview) -> memoryview:
        """Copy what fits; the rest, which belongs to the next segment."""
        fits = min(len(data), self._room_bytes - self.size_bytes)
        self.buffer.memory[self.size_bytes : self.size_bytes + fits] = data[:fits]
        self.size_bytes += fits
        return data[fits:]


def _encode(
    codec: Codec,
    stripe: memoryview,
    size_bytes: int,
    id_: SegmentId,
    generation: int,
    encoding: Encoding,
) -> list[ShardRecord]:
    """Fill in the parity of a stripe buffer and describe its n shards."""
    codec.encode_in_place(stripe, size_bytes)
    shard_bytes = codec.shard_bytes(size_bytes)
    records = []
    for index, payload in enumerate(codec.split(stripe, shard_bytes)):
        address = ShardAddress(id_, generation, index)
        info = ShardInfo(
            address, codec.k, codec.n, size_bytes, encoding, shard_bytes, blake3_digest(payload)
        )
        records.append(ShardRecord(info, payload))
    return records


def _first_cause(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """The error to answer with: what sixfold itself raised before anything that followed."""
    causes = [
        _first_cause(error) if isinstance(error, BaseExceptionGroup) else error
        for error in group.exceptions
    ]
    return next((error for error in causes if isinstance(error, SixfoldError)), causes[0])

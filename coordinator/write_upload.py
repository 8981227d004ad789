"""One upload: segments are cut as the bytes arrive; each is hashed, looked up (dedup), encoded and
written, a few at a time; the transaction that makes the content visible comes last.
"""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

from blake3 import blake3

from common.errors import (
    BadRequest,
    IdMismatch,
    IncompleteBody,
    TooLarge,
)
from common.hashing import blake3_digest
from common.ids import ContentId, SegmentId
from common.segment_list import SegmentList
from common.shards import Encoding
from common.units import KIB
from coordinator.buffers import StripeBuffer
from coordinator.bundler import SMALL_BYTES, Bundler, Small
from coordinator.durability import Durability, durability_of
from coordinator.metadata import ShardsOnNode, StoredSegment
from coordinator.services import Services
from coordinator.write_segment import Filling, SegmentWrites

# What an upload of unknown length gets at first: one that only pretends to be large gets no more.
FIRST_ROOM_BYTES = 64 * KIB


@dataclass(frozen=True, slots=True)
class Stored:
    """The answer to an upload. `new` is false if the content was visible before."""

    id: ContentId
    size_bytes: int
    durability: Durability
    new: bool


@dataclass(slots=True)
class Upload:
    """The state of one upload."""

    services: Services
    bundler: Bundler
    _done: SegmentWrites = field(init=False)
    _segments: list[asyncio.Task[StoredSegment]] = field(default_factory=list)
    _in_work: dict[SegmentId, asyncio.Future[StoredSegment]] = field(default_factory=dict)
    _hash_turn: asyncio.Lock = field(default_factory=asyncio.Lock)
    _size_bytes: int = 0

    def __post_init__(self) -> None:
        self._done = SegmentWrites(self.services)

    def leftovers(self) -> list[ShardsOnNode]:
        """All that may lie on nodes and must not stay."""
        return self._done.leftovers()

    async def run(
        self, body: AsyncIterator[bytes], declared_bytes: int | None, expected: ContentId | None
    ) -> Stored:
        first, rest = await self._fill_first(body, declared_bytes)
        if not rest:  # a content of one segment needs no tasks, and its hash is the segment's
            return await self._store_only(first, expected)
        content_hash = blake3()
        async with asyncio.TaskGroup() as group:
            await self._take_in(group, first, rest, body, declared_bytes, content_hash)
        segments = [task.result() for task in self._segments]
        id_ = ContentId(content_hash.digest())
        _check_id(id_, expected)
        return await self._publish(id_, segments)

    async def _fill_first(
        self, body: AsyncIterator[bytes], declared_bytes: int | None
    ) -> tuple[Filling, memoryview]:
        """The first segment, and what of the last chunk did not fit: nothing if it is the only
        one."""
        config = self.services.config
        room_bytes = FIRST_ROOM_BYTES if declared_bytes is None else declared_bytes
        room_bytes = min(room_bytes, config.segment_bytes)
        filling = Filling(await self._buffer(room_bytes), room_bytes)
        try:
            async for chunk in body:
                self._count(len(chunk), declared_bytes)
                rest = filling.take(memoryview(chunk))
                if rest and filling.room_bytes < config.segment_bytes:
                    filling = await self._enlarged(filling)
                    rest = filling.take(rest)
                if rest:
                    return filling, rest
            self._check_end(declared_bytes)
        except BaseException:
            filling.buffer.release()
            raise
        return filling, memoryview(b"")

    async def _take_in(
        self,
        group: asyncio.TaskGroup,
        filling: Filling,
        rest: memoryview,
        body: AsyncIterator[bytes],
        declared_bytes: int | None,
        content_hash: blake3,
    ) -> None:
        """Cut the rest of the body into segments and start a task for each, the first included,
        which is full."""
        segment_bytes = self.services.config.segment_bytes
        try:
            while True:
                while rest:
                    self._start_segment(group, filling, content_hash)
                    filling = Filling(await self._next_buffer(), segment_bytes)
                    rest = filling.take(rest)
                chunk = await anext(body, None)
                if chunk is None:
                    break
                self._count(len(chunk), declared_bytes)
                rest = filling.take(memoryview(chunk))
            self._check_end(declared_bytes)
            self._start_segment(group, filling, content_hash)
        except BaseException:
            if not filling.handed_over:
                filling.buffer.release()
            raise

    def _check_end(self, declared_bytes: int | None) -> None:
        if declared_bytes is not None and self._size_bytes < declared_bytes:
            raise IncompleteBody(f"{self._size_bytes} of {declared_bytes} bytes arrived")

    async def _enlarged(self, small: Filling) -> Filling:
        """A full segment's room, now that the upload turns out to be larger than the first."""
        segment_bytes = self.services.config.segment_bytes
        large = Filling(await self._buffer(segment_bytes), segment_bytes)
        large.take(small.buffer.memory[: small.size_bytes])
        small.buffer.release()
        return large

    def _count(self, chunk_bytes: int, declared_bytes: int | None) -> None:
        self._size_bytes += chunk_bytes
        if declared_bytes is not None and self._size_bytes > declared_bytes:
            raise BadRequest(f"more than the declared {declared_bytes} bytes arrived")
        if self._size_bytes > self.services.config.max_upload_bytes:
            raise TooLarge(f"an upload has at most {self.services.config.max_upload_bytes} bytes")

    async def _buffer(self, segment_bytes: int) -> StripeBuffer:
        codec = self.services.codec
        stripe_bytes = codec.n * codec.shard_bytes(segment_bytes)
        return await self.services.buffers.acquire(
            stripe_bytes, self.services.config.admission_wait_s
        )

    async def _next_buffer(self) -> StripeBuffer:
        """A further buffer if there is room, else one of our own when its segment is stored."""
        codec, config = self.services.codec, self.services.config
        stripe_bytes = codec.n * codec.shard_bytes(config.segment_bytes)
        while True:
            running = [task for task in self._segments if not task.done()]
            if len(running) < config.segments_in_flight:
                buffer = self.services.buffers.try_acquire(stripe_bytes)
                if buffer is not None:
                    return buffer
                if not running:
                    return await self.services.buffers.acquire(stripe_bytes, config.write_timeout_s)
            await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)

    def _start_segment(
        self, group: asyncio.TaskGroup, filling: Filling, content_hash: blake3
    ) -> None:
        filling.handed_over = True
        store = self._store_segment(filling.buffer, filling.size_bytes, content_hash)
        self._segments.append(group.create_task(store))

    async def _store_only(self, filling: Filling, expected: ContentId | None) -> Stored:
        """A content that is one segment, or may share one."""
        with filling.buffer as buffer:
            plain = buffer.memory[: filling.size_bytes]
            digest = await self.services.offload.run(len(plain), lambda: blake3_digest(plain))
            id_ = ContentId(digest)
            _check_id(id_, expected)
            if 0 < len(plain) <= SMALL_BYTES:
                return await self._store_small(id_, buffer, plain)
            segment = await self._done.find_or_write(
                SegmentId(digest), buffer, len(plain), Encoding.PLAIN
            )
        return await self._publish(id_, [segment])

    async def _store_small(self, id_: ContentId, buffer: StripeBuffer, plain: memoryview) -> Stored:
        copy = await self.services.metadata.find_copy(id_)
        if copy is not None:
            found = await self._done.reuse(copy.segment) if copy.segment is not None else None
            if found is not None:
                return await self._publish(id_, [found], copy.start_bytes)
            return await self._store_alone(id_, buffer, plain)
        async with self.bundler.turn(Small(id_, plain)) as placed:
            if placed is None:
                return await self._store_alone(id_, buffer, plain)
        durability = await self._durability(id_, [placed.segment], placed.new)
        return Stored(id_, self._size_bytes, durability, placed.new)

    async def _store_alone(self, id_: ContentId, buffer: StripeBuffer, plain: memoryview) -> Stored:
        """As a segment of its own."""
        write = self._done.write(SegmentId(id_), buffer, len(plain), Encoding.PLAIN)
        return await self._publish(id_, [await write])

    async def _store_segment(
        self, buffer: StripeBuffer, size_bytes: int, content_hash: blake3
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
                    await self._done.find_or_write(id_, buffer, size_bytes, Encoding.PLAIN)
                )
            finally:
                if not result.done():
                    result.cancel()
            return result.result()

    async def _hash(self, plain: memoryview, content_hash: blake3) -> SegmentId:
        """The segment's id. The content's hash takes the segments in their order."""

        def both() -> bytes:
            content_hash.update(plain)
            return blake3_digest(plain)

        async with self._hash_turn:
            return SegmentId(await self.services.offload.run(len(plain), both))

    async def _publish(
        self, id_: ContentId, segments: list[StoredSegment], start_bytes: int | None = None
    ) -> Stored:
        """The transaction that makes it visible."""
        segment_list = await self._write_list(id_, segments) if len(segments) > 1 else None
        new = self._done.content(id_, self._size_bytes, segments, segment_list, start_bytes)
        committed = await self._done.publish(self.services.metadata.commit_content(new))
        durability = await self._durability(id_, segments, not committed.others)
        behind = segments if segment_list is None else [*segments, segment_list]
        for piece in await self.services.metadata.marks.lacking(behind):
            await self._mark(piece)
        return Stored(id_, self._size_bytes, durability, committed.new)

    async def _mark(self, piece: StoredSegment) -> None:
        """As a content that is also a segment of another one (see metadata/marks.py)."""
        done = self._done = SegmentWrites(self.services)
        id_ = ContentId(piece.id)
        segment_list = await self._write_list(id_, [piece])
        done.proven.add(piece.id)  # by the upload itself, if need be
        mark = done.content(id_, piece.size_bytes, [piece], segment_list)
        await done.publish(self.services.metadata.marks.commit(mark))

    async def _durability(
        self, id_: ContentId, segments: list[StoredSegment], stands: bool
    ) -> Durability:
        """Of what is in the database now: if another upload of the same bytes, or of one of its
        segments, came first, its shards stand and ours are deleted."""
        if not stands:
            manifest = await self.services.metadata.find_content(id_)
            segments = list(manifest.segments) if manifest is not None else segments
        return durability_of(segments, self.services.cluster.membership.is_lasting)

    async def _write_list(self, id_: ContentId, segments: list[StoredSegment]) -> StoredSegment:
        """Store the segment list as a segment of its own."""
        entries = tuple((segment.id, segment.size_bytes) for segment in segments)
        size_bytes = sum(size for _, size in entries)
        packed = SegmentList(id_, size_bytes, entries).pack()
        with await self._buffer(len(packed)) as buffer:
            buffer.memory[: len(packed)] = packed
            list_id = SegmentId(blake3_digest(packed))
            return await self._done.find_or_write(
                list_id, buffer, len(packed), Encoding.SEGMENT_LIST
            )


def _check_id(id_: ContentId, expected: ContentId | None) -> None:
    if expected is not None and id_ != expected:
        raise IdMismatch(f"the bytes have the id {id_}, not {expected}")

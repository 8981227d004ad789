"""One segment in its buffer: how it is filled, what it becomes, and that it is stored."""

from collections.abc import Awaitable, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from common.codec import Codec
from common.errors import NotOurTurn, SegmentGone, SessionLost, Undurable
from common.failpoints import Point, failpoint
from common.hashing import blake3_digest
from common.ids import ContentId, SegmentId, ShardAddress
from common.shards import Encoding, ShardInfo, ShardRecord
from coordinator.buffers import StripeBuffer
from coordinator.durability import present_layout
from coordinator.metadata import KnownSegment, NewContent, ShardsOnNode, StoredSegment
from coordinator.proof import proven
from coordinator.services import Services
from coordinator.write_stripe import StripeWrite, Written

T = TypeVar("T")


class Filling:
    """A segment that is being cut: a buffer and how much of it is filled. Once `handed_over`, the
    buffer is somebody else's."""

    __slots__ = ("buffer", "handed_over", "room_bytes", "size_bytes")

    def __init__(self, buffer: StripeBuffer, room_bytes: int) -> None:
        self.buffer, self.room_bytes, self.size_bytes = buffer, room_bytes, 0
        self.handed_over = False

    def take(self, data: memoryview) -> memoryview:
        """Copy what fits; the rest, which belongs to the next segment."""
        fits = min(len(data), self.room_bytes - self.size_bytes)
        self.buffer.memory[self.size_bytes : self.size_bytes + fits] = data[:fits]
        self.size_bytes += fits
        return data[fits:]


def encode_stripe(
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


@dataclass(slots=True)
class SegmentWrites:
    """What one upload has written. `writes` are what must be undone if it fails from here,
    `unreadable` the generations of segments that were there but could not be read, `proven` those
    that were in doubt and could."""

    services: Services
    writes: list[Written] = field(default_factory=list)
    written: dict[SegmentId, StoredSegment] = field(default_factory=dict)
    unconfirmed: list[ShardsOnNode] = field(default_factory=list)
    unreadable: dict[SegmentId, int] = field(default_factory=dict)
    proven: set[SegmentId] = field(default_factory=set)

    def leftovers(self) -> list[ShardsOnNode]:
        """All that may lie on nodes and must not stay."""
        return [shards for write in self.writes for shards in write.shards()]

    def content(
        self,
        id_: ContentId,
        size_bytes: int,
        segments: Sequence[StoredSegment],
        segment_list: StoredSegment | None,
        start_bytes: int | None = None,
    ) -> NewContent:
        """Of segments that were written or found here, what is to be committed."""
        return NewContent(
            id_,
            size_bytes,
            segments,
            segment_list,
            list(self.written.values()),
            self.unconfirmed,
            self.unreadable,
            start_bytes,
            self.proven,
        )

    async def find_or_write(
        self, id_: SegmentId, buffer: StripeBuffer, size_bytes: int, encoding: Encoding
    ) -> StoredSegment:
        """The segment of these bytes, which lie in front in `buffer`: as it is there already, or
        as it has been written now. Raises Undurable or StorageFull."""
        known = await self.services.metadata.find_segment(id_)
        found = await self.reuse(known) if known is not None else None
        return found or await self.write(id_, buffer, size_bytes, encoding)

    async def reuse(self, known: KnownSegment) -> StoredSegment | None:
        """The segment, if it can be read now. It is kept from the collector."""
        stored = known.stored
        readable = await self._readable(known)
        if readable is None:
            self.unreadable[stored.id] = stored.generation
            return None
        if known.doubtful:
            self.proven.add(stored.id)
        if not known.fresh:
            await self.services.metadata.touch_segment(stored.id)
        return readable

    async def publish(self, commit: Awaitable[T]) -> T:
        """The outcome of COMMIT. Unless it was refused, it may have been sent and its fate be
        unknown: then nothing may be cleaned up."""
        writes, self.writes = self.writes, []
        try:
            return await commit
        except (NotOurTurn, SessionLost, SegmentGone, Undurable):
            self.writes = writes  # refused: not a trace of it is in the database
            raise

    async def _readable(self, known: KnownSegment) -> StoredSegment | None:
        """A segment that is there, if it can be read now. If not, what we write takes its place: we
        still have the bytes."""
        layout = present_layout(known.stored, self.services.cluster.membership.is_lasting)
        return await proven(self.services, known, layout)

    async def write(
        self, id_: SegmentId, buffer: StripeBuffer, size_bytes: int, encoding: Encoding
    ) -> StoredSegment:
        """A segment of these bytes, which lie in front in `buffer`, as it has been written now.
        Raises Undurable or StorageFull."""
        services, codec = self.services, self.services.codec
        shard_bytes = codec.shard_bytes(size_bytes)
        placement = services.cluster.place(id_, shard_bytes, codec.k, codec.n)
        stripe = buffer.memory[: codec.n * shard_bytes]
        generation = services.metadata.new_generation()
        records = await services.offload.run(
            size_bytes,
            lambda: encode_stripe(codec, stripe, size_bytes, id_, generation, encoding),
        )
        write = StripeWrite(
            services.cluster, records, placement, codec.k, services.config.straggler_s
        )
        try:
            result = await write.run()
        finally:
            self.writes.append(write.written())
            if not write.all_arrived:
                buffer.abandon()
        if shortfall := write.shortfall():
            raise shortfall
        failpoint(Point.UPLOAD_SHARDS_STORED)
        self.unconfirmed += result.unconfirmed
        checksums = b"".join(record.info.checksum for record in records)
        stored = StoredSegment(
            id_, size_bytes, encoding, codec.k, codec.n, generation, result.layout, checksums
        )
        self.written[id_] = stored
        return stored

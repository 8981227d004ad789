"""One segment in its buffer: how it is filled, and what it becomes."""

from common.codec import Codec
from common.hashing import blake3_digest
from common.ids import SegmentId, ShardAddress
from common.shards import Encoding, ShardInfo, ShardRecord
from coordinator.buffers import StripeBuffer


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

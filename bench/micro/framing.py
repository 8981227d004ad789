"""Frames as a lane receives them, without a socket, and record headers."""

import os
from functools import partial

from bench.micro.harness import Piece, Pieces, Stage, repeated
from common.framing import RECEIVE_BUFFER_BYTES, FrameReceiver
from common.hashing import blake3_digest
from common.ids import SegmentId, ShardAddress
from common.record import shard_header, unpack_header
from common.shards import Encoding, ShardInfo
from common.units import MIB
from common.wire import FrameKind, pack_frame
from coordinator.config import ALL_SHARDS, DATA_SHARDS

SMALL_BYTES = 700  # a shard of 4 KiB, about
FRAMES_AT_ONCE = 64
LARGE_BYTES = 2 * MIB
ARRIVAL_BYTES = RECEIVE_BUFFER_BYTES  # of a large payload, what one read of the socket brings


class Receiver(FrameReceiver):
    """Has the place for a large payload ready, as lanes do, and counts."""

    def __init__(self) -> None:
        super().__init__()
        self.place = memoryview(bytearray(LARGE_BYTES))
        self.frames = self.payload_bytes = 0

    def payload_place(
        self, kind: int, request: int, meta: memoryview, payload_bytes: int
    ) -> memoryview:
        return self.place

    def frame_received(
        self, kind: int, request: int, meta: memoryview | bytes, payload: memoryview
    ) -> None:
        self.frames += 1
        self.payload_bytes += len(payload)

    def protocol_failed(self, error: Exception) -> None:
        raise error


def arrive(receiver: FrameReceiver, stream: memoryview) -> None:
    """What the event loop does: the kernel fills the buffer, the protocol hears of it."""
    while stream:
        buffer = receiver.get_buffer(-1)
        size = min(len(buffer), len(stream), ARRIVAL_BYTES)
        buffer[:size] = stream[:size]
        receiver.buffer_updated(size)
        stream = stream[size:]


def copy(place: memoryview, stream: memoryview) -> None:
    """What of that is the kernel's."""
    for at in range(0, len(stream), ARRIVAL_BYTES):
        part = stream[at : at + ARRIVAL_BYTES]
        place[: len(part)] = part


def info_of(payload: bytes) -> ShardInfo:
    """Of a shard with that payload."""
    checksum = blake3_digest(payload)
    address = ShardAddress(SegmentId(os.urandom(32)), 1, 0)
    segment_bytes = DATA_SHARDS * len(payload)
    return ShardInfo(
        address, DATA_SHARDS, ALL_SHARDS, segment_bytes, Encoding.PLAIN, len(payload), checksum
    )


def frame_pieces(stage: Stage) -> Pieces:
    """Small frames come many at a time; of a large one, the copying is the kernel's."""
    receiver, payload = Receiver(), os.urandom(SMALL_BYTES)
    header = shard_header(info_of(payload))
    for name, frame in (
        ("OK", pack_frame(FrameKind.OK, 7)),
        ("RECORD 700 B", pack_frame(FrameKind.RECORD, 7, header, SMALL_BYTES) + payload),
    ):
        stream = memoryview(frame * FRAMES_AT_ONCE)
        parse = repeated(partial(arrive, receiver, stream))
        yield Piece(f"frame parse {name}", "frames/s", parse, FRAMES_AT_ONCE)
    pack = partial(pack_frame, FrameKind.APPEND, 7, header, SMALL_BYTES)
    yield Piece("frame pack APPEND", "frames/s", repeated(pack))
    yield _large_piece(receiver, header)


def _large_piece(receiver: Receiver, header: bytes) -> Piece:
    frame = pack_frame(FrameKind.RECORD, 7, header, LARGE_BYTES) + os.urandom(LARGE_BYTES)
    stream = memoryview(frame)
    receive = repeated(partial(arrive, receiver, stream))
    floor = repeated(partial(copy, receiver.place, stream))
    return Piece("frame receive RECORD 2 MiB", "GB/s", receive, LARGE_BYTES, floor)


def record_pieces(stage: Stage) -> Pieces:
    info = info_of(os.urandom(SMALL_BYTES))
    yield Piece("record header pack", "µs", repeated(partial(shard_header, info)))
    packed = memoryview(shard_header(info))
    yield Piece("record header unpack", "µs", repeated(partial(unpack_header, packed)))

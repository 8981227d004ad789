"""Frames of a lane: the binary stream between a coordinator and the data port of a node.

Every frame starts with 12 bytes, little-endian:

    offset  bytes  field
         0      4  payload length in bytes
         4      4  request number: chosen by the coordinator, repeated by the answer
         8      2  meta length in bytes
        10      1  kind
        11      1  zero

then the meta, then the payload. What they hold depends on the kind:

    kind       meta                                          payload
    HELLO      version u16, lane u8, zero u8, cluster id     -
               16, node id 16, nonce 32
    CHALLENGE  nonce 32, proof 32 (common/auth.py)           -
    PROOF      proof 32                                      -
    WELCOME    window in bytes u32, window in requests u32   -
    APPEND     record header 128 (common/record.py)          the shard
    DELETE     epoch u64, shard keys, 41 bytes each          -
               (common/ids.py)
    READ       one shard key                                 -
    PING       -                                             -
    OK         -                                             -
    RECORD     record header 128                             the shard
    MISSING    -                                             -
    ERROR      code, a zero byte, message (UTF-8)            -

The epoch of a DELETE is a fencing token: a node refuses one that is lower than the highest it has
seen (StaleEpoch). So what a paused coordinator sends late does nothing, once another has taken
over its job.
"""

import struct
from collections.abc import Sequence
from enum import IntEnum

from common.errors import ProtocolError, SixfoldError, revive
from common.ids import KEY_BYTES, ShardAddress
from common.units import KIB, MIB

PROTOCOL_VERSION = 2
FRAME_HEADER_BYTES = 12
NONCE_BYTES = 32
PROOF_BYTES = 32
MAX_META_BYTES = 60 * KIB
MAX_PAYLOAD_BYTES = 16 * MIB
KEYS_PER_DELETE = 1024

FRAME = struct.Struct("<IIHBx")
HELLO = struct.Struct("<HBx16s16s32s")
CHALLENGE = struct.Struct("<32s32s")
WELCOME = struct.Struct("<II")
EPOCH = struct.Struct("<Q")


class FrameKind(IntEnum):
    HELLO = 1
    CHALLENGE = 2
    PROOF = 3
    WELCOME = 4
    APPEND = 16
    DELETE = 17
    READ = 18
    PING = 19
    OK = 32
    RECORD = 33
    MISSING = 34
    ERROR = 35


class LaneKind(IntEnum):
    """One lane of each kind joins a coordinator process with a node."""

    WRITE = 1
    READ = 2


def pack_frame(
    kind: FrameKind, request: int, meta: bytes | memoryview = b"", payload_bytes: int = 0
) -> bytes:
    """The frame up to its payload, which the caller sends after it."""
    return FRAME.pack(payload_bytes, request, len(meta), kind) + meta


def pack_deletes(epoch: int, addresses: Sequence[ShardAddress]) -> bytes:
    """The meta of a DELETE frame: KEYS_PER_DELETE addresses at most."""
    return EPOCH.pack(epoch) + b"".join(address.key for address in addresses)


def unpack_deletes(meta: bytes | memoryview) -> tuple[int, list[ShardAddress]]:
    """The epoch and the addresses. Raises ProtocolError for what `pack_deletes` does not make."""
    keys_bytes = len(meta) - EPOCH.size
    if not 0 <= keys_bytes <= KEY_BYTES * KEYS_PER_DELETE or keys_bytes % KEY_BYTES:
        raise ProtocolError(f"DELETE with a meta of {len(meta)} bytes")
    starts = range(EPOCH.size, len(meta), KEY_BYTES)
    (epoch,) = EPOCH.unpack_from(meta)
    return epoch, [ShardAddress.from_key(meta[at : at + KEY_BYTES]) for at in starts]


def pack_error(error: SixfoldError) -> bytes:
    """The meta of an ERROR frame."""
    # A message may quote a file name that is no UTF-8: it must not stop the error itself.
    return f"{error.code}\0{error}".encode(errors="backslashreplace")[:MAX_META_BYTES]


def unpack_error(meta: bytes | memoryview) -> SixfoldError:
    """The error that the peer raised, as the class it raised."""
    code, _, message = bytes(meta).decode(errors="replace").partition("\0")
    return revive(code, message)


def check_frame(payload_bytes: int, meta_bytes: int) -> None:
    """Raises ProtocolError for sizes that no honest peer sends."""
    if payload_bytes > MAX_PAYLOAD_BYTES or meta_bytes > MAX_META_BYTES:
        raise ProtocolError(f"frame too large: meta {meta_bytes}, payload {payload_bytes} bytes")

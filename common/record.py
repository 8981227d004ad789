"""The 128 bytes before every shard, alike in volumes and on the wire.

Little-endian; the payload follows at once.

    offset  bytes  field
         0      4  magic ``6REC``
         4      1  format version, 1
         5      1  kind: 1 shard, 2 tombstone
         6      1  index
         7      1  k
         8      1  n
         9      1  encoding (flags, common/shards.py)
        10      2  zero
        12      4  payload length in bytes
        16      8  sequence number: grows on the node, orders what happened to one address. 0 on
                   the wire towards a node, which assigns it
        24      8  generation
        32      8  segment size in bytes
        40     32  segment id
        72     32  BLAKE3 of the payload
       104     20  zero
       124      4  CRC-32 (IEEE 802.3) of bytes 0 to 123
"""

import struct
import zlib
from enum import IntEnum
from typing import NamedTuple

from common.errors import Corrupt
from common.hashing import blake3_digest
from common.ids import SegmentId, ShardAddress
from common.shards import Encoding, ShardInfo

HEADER_BYTES = 128
MAGIC = b"6REC"
FORMAT_VERSION = 1

_FIELDS = struct.Struct("<4sBBBBBB2xIQQQ32s32s20x")
_CRC = struct.Struct("<I")
_CRC_AT = _FIELDS.size
_ALL_FIELDS = struct.Struct(_FIELDS.format + "I")
_EMPTY_CHECKSUM = blake3_digest(b"")


class RecordKind(IntEnum):
    SHARD = 1
    TOMBSTONE = 2


class RecordHeader(NamedTuple):
    kind: RecordKind
    sequence: int
    info: ShardInfo


def pack_header(header: RecordHeader) -> bytes:
    """128 bytes."""
    info = header.info
    address = info.address
    fields = _FIELDS.pack(
        MAGIC,
        FORMAT_VERSION,
        header.kind,
        address.index,
        info.k,
        info.n,
        info.encoding,
        info.payload_bytes,
        header.sequence,
        address.generation,
        info.segment_bytes,
        address.segment,
        info.checksum,
    )
    return fields + _CRC.pack(zlib.crc32(fields))


def shard_header(info: ShardInfo, sequence: int = 0) -> bytes:
    """The packed header of a shard."""
    return pack_header(RecordHeader(RecordKind.SHARD, sequence, info))


def tombstone_header(address: ShardAddress, sequence: int) -> bytes:
    """The packed header that buries `address`: no payload, no code parameters."""
    info = ShardInfo(address, 0, 0, 0, Encoding.PLAIN, 0, _EMPTY_CHECKSUM)
    return pack_header(RecordHeader(RecordKind.TOMBSTONE, sequence, info))


def unpack_header(data: bytes | bytearray | memoryview) -> RecordHeader:
    """Parse the first 128 bytes of `data`. Raises Corrupt if they are not a valid header."""
    if len(data) < HEADER_BYTES:
        raise Corrupt(f"record header cut short: {len(data)} of {HEADER_BYTES} bytes")
    (
        magic, version, kind, index, k, n, encoding, payload_bytes,
        sequence, generation, segment_bytes, segment, checksum, crc,
    ) = _ALL_FIELDS.unpack_from(data)  # fmt: skip
    if crc != zlib.crc32(data[:_CRC_AT]):
        raise Corrupt("record header fails its CRC")
    if magic != MAGIC or version != FORMAT_VERSION or kind not in _KINDS:
        raise Corrupt(f"not a record header: magic {magic!r}, version {version}, kind {kind}")
    address = ShardAddress(SegmentId(segment), generation, index)
    info = ShardInfo(address, k, n, segment_bytes, _ENCODINGS[encoding], payload_bytes, checksum)
    return RecordHeader(_KINDS[kind], sequence, info)


# Looked up, since calling an enum costs more than all the rest of unpacking.
_KINDS = {int(kind): kind for kind in RecordKind}
_ENCODINGS = tuple(map(Encoding, range(256)))

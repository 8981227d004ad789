"""The segment list of a content of several segments, itself stored as a small segment.

It lets the metadata be rebuilt from the nodes alone. Little-endian:

    offset  bytes  field
         0      4  magic ``6LST``
         4      4  format version, 1
         8     32  content id
        40      8  content size in bytes
        48      4  number of segments
        52     40  per segment: id 32, size in bytes 8
"""

import struct
from dataclasses import dataclass

from common.errors import Corrupt
from common.ids import ContentId, SegmentId

MAGIC = b"6LST"
FORMAT_VERSION = 1

_HEAD = struct.Struct("<4sI32sQI")
_ENTRY = struct.Struct("<32sQ")


@dataclass(frozen=True, slots=True)
class SegmentList:
    content: ContentId
    size_bytes: int
    segments: tuple[tuple[SegmentId, int], ...]

    def pack(self) -> bytes:
        head = _HEAD.pack(MAGIC, FORMAT_VERSION, self.content, self.size_bytes, len(self.segments))
        return head + b"".join(_ENTRY.pack(*entry) for entry in self.segments)

    def ids(self) -> list[SegmentId]:
        """Of its segments, in their order."""
        return [id_ for id_, _ in self.segments]

    @staticmethod
    def may_have(size_bytes: int) -> bool:
        """Whether there are lists of that size."""
        return size_bytes > _HEAD.size and (size_bytes - _HEAD.size) % _ENTRY.size == 0

    @classmethod
    def unpack(cls, data: bytes) -> "SegmentList":
        """Raises Corrupt unless `data` is exactly one segment list."""
        if len(data) < _HEAD.size:
            raise Corrupt("segment list cut short")
        magic, version, content, size_bytes, count = _HEAD.unpack_from(data)
        if magic != MAGIC or version != FORMAT_VERSION:
            raise Corrupt(f"not a segment list: magic {magic!r}, version {version}")
        if len(data) != _HEAD.size + count * _ENTRY.size:
            raise Corrupt(f"segment list of {count} entries has {len(data)} bytes")
        entries = tuple((SegmentId(i), size) for i, size in _ENTRY.iter_unpack(data[_HEAD.size :]))
        if sum(size for _, size in entries) != size_bytes:
            raise Corrupt("segment list does not add up to its content")
        return cls(ContentId(content), size_bytes, entries)

"""Names of things: contents, segments, shards. Bytes inside, hex at the edges."""

import re
import struct
from typing import NamedTuple, Self

from common.errors import MalformedId

DIGEST_BYTES = 32
KEY_BYTES = 41  # segment id, generation, index: see ShardAddress.key

MAX_INDEX = 255

_ADDRESS = re.compile(r"([0-9a-f]{64})\.([0-9a-f]{16})\.(0|[1-9][0-9]{0,2})")
_KEY = struct.Struct(">32sQB")


class Blake3Id(bytes):
    """A BLAKE3-256 digest that names something. Its text form is 64 lower-case hex digits."""

    __slots__ = ()

    @classmethod
    def parse(cls, text: str) -> Self:
        """Raises MalformedId unless `text` is exactly what `str` of an id gives."""
        try:
            id_ = cls.fromhex(text)
        except ValueError:
            id_ = cls()
        if len(id_) != DIGEST_BYTES or id_.hex() != text:  # capitals and spaces
            shown = text if len(text) <= 80 else text[:77] + "..."
            raise MalformedId(f"not an id (64 lower-case hex digits): {shown!r}")
        return id_

    def __str__(self) -> str:
        return self.hex()


class ContentId(Blake3Id):
    """BLAKE3-256 of the bytes of one upload: what `b3sum` prints."""

    __slots__ = ()


class SegmentId(Blake3Id):
    """BLAKE3-256 of the plain bytes of one segment."""

    __slots__ = ()


class ShardAddress(NamedTuple):
    """One shard of one act of writing a segment. Text form ``<64 hex>.<16 hex>.<index>``.

    A tuple, as are the values made of it (common/shards.py): nine come and go with every small
    object, and frozen dataclasses take twice as long to make.
    """

    segment: SegmentId
    generation: int
    index: int  # type: ignore[assignment]  # takes the place of the method tuple.index

    @property
    def key(self) -> bytes:
        """41 bytes, big-endian, so that keys sort as addresses do."""
        return _KEY.pack(self.segment, self.generation, self.index)

    @classmethod
    def from_key(cls, key: bytes | memoryview) -> "ShardAddress":
        segment, generation, index = _KEY.unpack(key)
        return cls(SegmentId(segment), generation, index)

    @classmethod
    def parse(cls, text: str) -> "ShardAddress":
        """Raises MalformedId unless `text` is exactly what `str` of an address gives."""
        match = _ADDRESS.fullmatch(text)
        if match is None or int(match[3]) > MAX_INDEX:
            raise MalformedId(f"not a shard address (<64 hex>.<16 hex>.<index>): {text[:120]!r}")
        return cls(SegmentId.fromhex(match[1]), int(match[2], 16), int(match[3]))

    def __str__(self) -> str:
        return f"{self.segment}.{self.generation:016x}.{self.index}"

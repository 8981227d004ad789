"""Several small contents in one segment. Uploads that arrive together are stored so: one stripe and
one record on each node then carry them all.

Little-endian:

    offset  bytes  field
         0      4  magic ``6BDL``
         4      4  format version, 1
         8     16  salt: random, so that nobody can upload a content that equals a bundle
        24      4  number of contents
        28      4  per content: its size in bytes
                   the contents, in order

Their ids are not in it: they are what their bytes hash to.
"""

import struct
from collections.abc import Sequence
from itertools import accumulate, pairwise
from typing import NamedTuple

from common.errors import Corrupt
from common.shards import Buffer

MAGIC = b"6BDL"
FORMAT_VERSION = 1
SALT_BYTES = 16

_HEAD = struct.Struct("<4sI16sI")
_SIZE = struct.Struct("<I")
HEAD_BYTES = _HEAD.size
ENTRY_BYTES = _SIZE.size  # beside each content's own bytes


class Part(NamedTuple):
    """Where one content is in the bundle's bytes: [start, end)."""

    start: int
    end: int

    @property
    def size_bytes(self) -> int:
        return self.end - self.start


def bundle_bytes(sizes_bytes: Sequence[int]) -> int:
    """How large a bundle of contents of these sizes is."""
    return HEAD_BYTES + ENTRY_BYTES * len(sizes_bytes) + sum(sizes_bytes)


def fill_bundle(into: memoryview, salt: bytes, contents: Sequence[Buffer]) -> list[Part]:
    """Write the bundle of these contents into the front of `into`; where each of them is. `salt`
    are SALT_BYTES random ones."""
    sizes_bytes = [len(content) for content in contents]
    _HEAD.pack_into(into, 0, MAGIC, FORMAT_VERSION, salt, len(contents))
    struct.pack_into(f"<{len(contents)}I", into, _HEAD.size, *sizes_bytes)
    parts = _parts(sizes_bytes)
    for part, content in zip(parts, contents, strict=True):
        into[part.start : part.end] = content
    return parts


def parts_of(bundle: Buffer) -> list[Part]:
    """Where its contents are. Raises Corrupt unless `bundle` is exactly one bundle."""
    if len(bundle) < _HEAD.size:
        raise Corrupt("bundle cut short")
    magic, version, _, count = _HEAD.unpack_from(bundle)
    if magic != MAGIC or version != FORMAT_VERSION:
        raise Corrupt(f"not a bundle: magic {magic!r}, version {version}")
    if len(bundle) < _HEAD.size + count * _SIZE.size:
        raise Corrupt(f"bundle of {count} contents has {len(bundle)} bytes")
    sizes_bytes = struct.unpack_from(f"<{count}I", bundle, _HEAD.size)
    if bundle_bytes(sizes_bytes) != len(bundle):
        raise Corrupt("bundle does not add up to its contents")
    return _parts(sizes_bytes)


def _parts(sizes_bytes: Sequence[int]) -> list[Part]:
    first = bundle_bytes(sizes_bytes) - sum(sizes_bytes)
    ends = list(accumulate(sizes_bytes, initial=first))
    return [Part(start, end) for start, end in pairwise(ends)]

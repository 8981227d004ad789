"""Contents that are made and checked for next to nothing.

A content is blocks of 1 MiB (the last may be shorter), each a stamp of 16 bytes, the content's
seed and the block's number, before the same random bytes. So no two contents share a segment, the
sender touches one block that stays in the CPU's cache, and the receiver compares with memcmp.
"""

import ctypes
import random
import struct
from collections.abc import Iterator

from blake3 import blake3

from common.units import MIB

BLOCK_BYTES = MIB
_STAMP = struct.Struct("<QQ")
STAMP_BYTES = _STAMP.size
_RANDOM = random.Random(6).randbytes(BLOCK_BYTES)
_REST = _RANDOM[STAMP_BYTES:]
_libc = ctypes.CDLL(None)
_libc.memcmp.argtypes = (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t)


def stamp_of(seed: int, number: int = 0) -> bytes:
    """How a block begins."""
    return _STAMP.pack(seed, number)


def blocks(seed: int, size_bytes: int) -> Iterator[tuple[bytes, memoryview]]:
    """The content, a block at a time: stamp and rest."""
    rest = memoryview(_REST)
    for number, at in enumerate(range(0, size_bytes, BLOCK_BYTES)):
        length = min(BLOCK_BYTES, size_bytes - at)
        stamp = stamp_of(seed, number)[:length]
        yield stamp, rest[: length - len(stamp)]


def small(seed: int, size_bytes: int) -> bytes:
    """A content of at most one block."""
    return b"".join(bytes(piece) for block in blocks(seed, size_bytes) for piece in block)


def content_id(seed: int, size_bytes: int) -> str:
    """Its BLAKE3-256, in hex."""
    digest = blake3()
    for stamp, rest in blocks(seed, size_bytes):
        digest.update(stamp)
        digest.update(rest)
    return digest.hexdigest()


def is_block(received: ctypes.Array[ctypes.c_char], length: int, seed: int, number: int) -> bool:
    """Whether the first `length` bytes received are that block."""
    stamp = stamp_of(seed, number)[:length]
    rest_bytes = length - len(stamp)
    here = ctypes.addressof(received) + len(stamp)
    return received.raw[: len(stamp)] == stamp and _libc.memcmp(here, _REST, rest_bytes) == 0

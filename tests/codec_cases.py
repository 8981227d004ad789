"""What the tests of the erasure code share: sizes, survivors, and stripes to compare with."""

import random
from itertools import combinations

from common.codec import Codec

K, N = 6, 9
SIZES = [0, 1, 5, 6, 7, 63, 64, 65, 383, 384, 385, 4096, 100_003]
SUBSETS = list(combinations(range(N), K))
BACKENDS = ["isal", "zfec"]
OTHER_CODES = [(1, 1), (1, 3), (4, 6), (10, 14), (3, 3), (32, 40), (1, 256)]


def make_segment(size_bytes: int) -> bytes:
    return random.Random(size_bytes).randbytes(size_bytes)


def make_stripe(segment: bytes, k: int = K, n: int = N, backend: str = "zfec") -> bytes:
    return b"".join(Codec(k, n, backend).encode(segment))


def without(stripe: bytes, shard_bytes: int, rows: list[int]) -> memoryview:
    """A stripe buffer with `rows` overwritten: what was in them must not matter."""
    buffer = memoryview(bytearray(stripe))
    for row in rows:
        buffer[row * shard_bytes : (row + 1) * shard_bytes] = b"\xa5" * shard_bytes
    return buffer


def check_subset(codec: Codec, segment: bytes, stripe: bytes, have: tuple[int, ...]) -> None:
    """All three ways back from the shards `have`, which are k."""
    size = len(segment)
    length = codec.shard_bytes(size)
    rows = [stripe[row * length : (row + 1) * length] for row in range(codec.n)]
    shards = {row: rows[row] for row in have}
    missing = [row for row in range(codec.n) if row not in shards]
    assert codec.decode(shards, size) == segment
    assert codec.rebuild(shards, missing[::-1], size) == [rows[row] for row in missing[::-1]]
    buffer = without(stripe, length, missing)
    codec.recover_in_place(buffer, size, have[::-1], missing[::-1])
    assert buffer == stripe

"""The erasure code with either backend, and BLAKE3."""

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial

from bench.micro.harness import Piece, Pieces, Stage, Work, repeated
from common.codec import Codec
from common.hashing import blake3_digest
from common.units import KIB, MIB
from coordinator.config import ALL_SHARDS, DATA_SHARDS

BACKENDS = ("isal", "zfec")
SEGMENTS = {"12 MiB": 12 * MIB, "4 KiB": 4 * KIB}
LOST: Sequence[Sequence[int]] = ((0,), (0, 2, 4))  # data shards
# Segments, and the shards of these.
HASHED = {"12 MiB": 12 * MIB, "2 MiB": 2 * MIB, "4 KiB": 4 * KIB, "683 B": 683}
THREADS = 2


def codec_pieces(stage: Stage) -> Pieces:
    """In place, as a coordinator encodes and decodes."""
    for backend in BACKENDS:
        codec = Codec(DATA_SHARDS, ALL_SHARDS, backend)
        for size, size_bytes in SEGMENTS.items():
            stripe = memoryview(bytearray(codec.n * codec.shard_bytes(size_bytes)))
            stripe[:size_bytes] = os.urandom(size_bytes)
            encode = partial(codec.encode_in_place, stripe, size_bytes)
            yield _piece(f"codec {backend} encode {size}", size_bytes, repeated(encode))
            for lost in LOST:
                have = [row for row in range(codec.n) if row not in lost]
                decode = partial(codec.recover_in_place, stripe, size_bytes, have, lost)
                name = f"codec {backend} decode {size}, {len(lost)} lost"
                yield _piece(name, size_bytes, repeated(decode))


def hash_pieces(stage: Stage) -> Pieces:
    """On one thread, and on two at once: the figure is that of both together."""
    with ThreadPoolExecutor(THREADS) as pool:
        for size, size_bytes in HASHED.items():
            data = memoryview(os.urandom(size_bytes))
            alone = repeated(partial(blake3_digest, data))
            yield _piece(f"blake3 {size}", size_bytes, alone)
            together = partial(_on_threads, pool, alone)
            yield _piece(f"blake3 {size}, {THREADS} threads", size_bytes, together, THREADS)


def _on_threads(pool: ThreadPoolExecutor, work: Work, times: int) -> None:
    for running in [pool.submit(work, times) for _ in range(THREADS)]:
        running.result()


def _piece(name: str, size_bytes: int, work: Work, operations: int = 1) -> Piece:
    """Of large data the rate matters, of small the time that one takes."""
    if size_bytes >= MIB:
        return Piece(name, "GB/s", work, size_bytes * operations)
    return Piece(name, "µs", work, operations)

"""The erasure code: any k of n shards give back a segment. Pure; computes in place.

The code is zfec's (systematic Reed-Solomon over GF(2^8), generator 0x11D; L. Rizzo, "Effective
erasure codes for reliable computer communication protocols", 1997). A segment of s bytes becomes
k data shards of L = ceil(s/k) bytes, the last ones zero-padded, and n-k parity shards of L bytes.

All work is done on a **stripe buffer**: n·L writable, contiguous bytes, shard i at [i·L, (i+1)·L),
so that the first s bytes are the segment itself. Two backends give identical bytes: zfec, the
reference, and ISA-L (common/isal.py) at thirty times its speed.
"""

from collections.abc import Mapping, Sequence
from typing import Protocol

import zfec

from common.isal import IsalMatrix, load_isal

MAX_SHARDS = 256


class Backend(Protocol):
    """Fills rows of a stripe buffer. Callers have checked every argument."""

    name: str

    def encode(self, stripe: memoryview, shard_bytes: int) -> None:
        """From the k data rows compute the parity rows."""

    def recover(
        self, stripe: memoryview, shard_bytes: int, have: Sequence[int], missing: Sequence[int]
    ) -> None:
        """From the k rows `have` compute the rows `missing`. Both ascending and disjoint."""


class ZfecBackend:
    """The reference. zfec 1.6 must be given distinct, valid row numbers (else it loops for ever
    or returns garbage), reorders the list it is given, and returns its inputs as data rows."""

    name = "zfec"

    def __init__(self, k: int, n: int) -> None:
        self.k, self.n = k, n
        self._encoder = zfec.Encoder(k, n)
        self._decoder = zfec.Decoder(k, n)

    def encode(self, stripe: memoryview, shard_bytes: int) -> None:
        data = _rows(stripe, shard_bytes, range(self.k))
        _store(stripe, shard_bytes, range(self.k, self.n), self._parity(data, self.k, self.n))

    def recover(
        self, stripe: memoryview, shard_bytes: int, have: Sequence[int], missing: Sequence[int]
    ) -> None:
        data = self._decoder.decode(_rows(stripe, shard_bytes, have), list(have))
        lost_data = [row for row in missing if row < self.k]
        _store(stripe, shard_bytes, lost_data, [bytes(data[row]) for row in lost_data])
        lost_parity = [row for row in missing if row >= self.k]
        if lost_parity:
            parity = self._parity(_rows(stripe, shard_bytes, range(self.k)), self.k, self.n)
            _store(stripe, shard_bytes, lost_parity, [parity[row - self.k] for row in lost_parity])

    def _parity(self, data: list[bytes], first: int, end: int) -> list[bytes]:
        return list(self._encoder.encode(data, list(range(first, end))))

    def generator(self) -> bytes:
        """The n×k matrix, row by row: column j is the code of the j-th unit vector."""
        units = [bytes(int(row == j) for j in range(self.k)) for row in range(self.k)]
        parity = self._parity(units, self.k, self.n)
        return b"".join(units + parity)


def _rows(stripe: memoryview, shard_bytes: int, rows: Sequence[int]) -> list[bytes]:
    return [bytes(stripe[row * shard_bytes : (row + 1) * shard_bytes]) for row in rows]


def _store(
    stripe: memoryview, shard_bytes: int, rows: Sequence[int], values: Sequence[bytes]
) -> None:
    for row, value in zip(rows, values, strict=True):
        stripe[row * shard_bytes : (row + 1) * shard_bytes] = value


class Codec:
    """Splits segments into stripes and puts them together again. Safe to use from threads."""

    def __init__(self, k: int, n: int, backend: str = "auto") -> None:
        """`backend` is ``auto`` (ISA-L if it can be loaded), ``isal`` or ``zfec``."""
        if not 1 <= k <= n <= MAX_SHARDS:
            raise ValueError(f"need 1 <= k <= n <= {MAX_SHARDS}, not k={k}, n={n}")
        self.k, self.n = k, n
        self._backend = _make_backend(k, n, backend)

    @property
    def backend_name(self) -> str:
        return self._backend.name

    def shard_bytes(self, segment_bytes: int) -> int:
        """L, the length of every shard of a segment of `segment_bytes`."""
        return -(-segment_bytes // self.k)

    def encode_in_place(self, stripe: memoryview, segment_bytes: int) -> None:
        """`stripe` begins with the segment: pad it and fill in the parity shards."""
        shard_bytes = self._check(stripe, segment_bytes)
        if shard_bytes:
            padded = self.k * shard_bytes
            stripe[segment_bytes:padded] = bytes(padded - segment_bytes)
            self._backend.encode(stripe, shard_bytes)

    def recover_in_place(
        self, stripe: memoryview, segment_bytes: int, have: Sequence[int], missing: Sequence[int]
    ) -> None:
        """Fill the shards `missing` of `stripe` from those in `have`, of which k are used.

        Raises ValueError for fewer than k shards, numbers that repeat, overlap or are not below n.
        """
        shard_bytes = self._check(stripe, segment_bytes)
        rows = sorted(have)[: self.k]
        every = [*have, *missing]
        if len(rows) < self.k:
            raise ValueError(f"need {self.k} shards, have {len(rows)}")
        if len(set(every)) != len(every) or not all(0 <= row < self.n for row in every):
            raise ValueError(f"bad shard numbers: have {list(have)}, missing {list(missing)}")
        if shard_bytes and missing:
            self._backend.recover(stripe, shard_bytes, rows, sorted(missing))

    def encode(self, segment: bytes | bytearray | memoryview) -> list[memoryview]:
        """The stripe of `segment`: n shards of `shard_bytes(len(segment))`, in fresh memory."""
        size = len(segment)
        shard_bytes = self.shard_bytes(size)
        stripe = memoryview(bytearray(self.n * shard_bytes))
        stripe[:size] = segment
        self.encode_in_place(stripe, size)
        return self.split(stripe, shard_bytes)

    def decode(
        self, shards: Mapping[int, bytes | bytearray | memoryview], segment_bytes: int
    ) -> bytes:
        """The segment, from any k shards by number. Raises ValueError as `recover_in_place`."""
        missing = [row for row in range(self.k) if row not in shards]
        stripe = self._gather(shards, segment_bytes)
        self.recover_in_place(stripe, segment_bytes, sorted(shards), missing)
        return bytes(stripe[:segment_bytes])

    def rebuild(
        self,
        shards: Mapping[int, bytes | bytearray | memoryview],
        missing: Sequence[int],
        segment_bytes: int,
    ) -> list[bytes]:
        """The shards `missing`, in that order, from any k others. Raises ValueError likewise."""
        stripe = self._gather(shards, segment_bytes)
        self.recover_in_place(stripe, segment_bytes, sorted(shards), missing)
        return _rows(stripe, self.shard_bytes(segment_bytes), missing)

    def split(self, stripe: memoryview, shard_bytes: int) -> list[memoryview]:
        """The n shards of a stripe buffer, as views of it."""
        return [stripe[row * shard_bytes : (row + 1) * shard_bytes] for row in range(self.n)]

    def _gather(
        self, shards: Mapping[int, bytes | bytearray | memoryview], segment_bytes: int
    ) -> memoryview:
        shard_bytes = self.shard_bytes(segment_bytes)
        stripe = memoryview(bytearray(self.n * shard_bytes))
        for row, shard in shards.items():
            if not 0 <= row < self.n or len(shard) != shard_bytes:
                raise ValueError(f"shard {row} of {len(shard)} bytes, expected {shard_bytes}")
            stripe[row * shard_bytes : (row + 1) * shard_bytes] = shard
        return stripe

    def _check(self, stripe: memoryview, segment_bytes: int) -> int:
        shard_bytes = self.shard_bytes(segment_bytes)
        plain = stripe.c_contiguous and stripe.itemsize == 1 and not stripe.readonly
        if segment_bytes < 0 or stripe.nbytes != self.n * shard_bytes or not plain:
            raise ValueError(
                f"a stripe buffer for {segment_bytes} bytes is {self.n * shard_bytes} writable, "
                f"contiguous bytes, not {stripe}, {stripe.nbytes}"
            )
        return shard_bytes


def _make_backend(k: int, n: int, wanted: str) -> Backend:
    reference = ZfecBackend(k, n)
    if wanted == "zfec":
        return reference
    if wanted not in ("auto", "isal"):
        raise ValueError(f"unknown codec backend {wanted!r}: auto, isal or zfec")
    library = load_isal()
    if library is not None:
        return IsalMatrix(library, k, n, reference.generator())
    if wanted == "isal":
        raise ValueError("no libisal could be loaded")
    return reference

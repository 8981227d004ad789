"""Intel's ISA-L through ctypes, which releases the GIL: matrix products over GF(2^8).

ISA-L uses the field polynomial of zfec (0x11D), so with zfec's generator matrix it gives zfec's
bytes. The functions are those of ISA-L's erasure_code.h: ec_init_tables, ec_encode_data,
gf_invert_matrix, gf_mul.
"""

import ctypes
import importlib.util
import struct
from collections.abc import Sequence
from functools import cache, lru_cache
from pathlib import Path

_TABLE_BYTES_PER_CELL = 32
_PATTERNS_CACHED = 4096


@cache
def load_isal() -> ctypes.CDLL | None:
    """The system's libisal, or the one inside PyEClib's wheel; None if there is neither."""
    for name in ["libisal.so.2", *_bundled()]:
        try:
            library = ctypes.CDLL(name)
            library.gf_mul.restype = ctypes.c_ubyte
            library.gf_mul.argtypes = [ctypes.c_ubyte, ctypes.c_ubyte]
        except (OSError, AttributeError):  # absent, or not the ISA-L that we know
            continue
        return library
    return None


def _bundled() -> list[str]:
    """Where PyEClib's wheel puts its libisal: beside the package, in `pyeclib.libs`."""
    spec = importlib.util.find_spec("pyeclib")
    if spec is None or spec.origin is None:
        return []
    folder = Path(spec.origin).parent.parent / "pyeclib.libs"
    return [str(path) for path in sorted(folder.glob("libisal*.so*"))]


class IsalMatrix:
    """A codec backend (common/codec.py) for one n×k generator matrix."""

    name = "isal"

    def __init__(self, library: ctypes.CDLL, k: int, n: int, generator: bytes) -> None:
        self._library, self._k, self._n, self._generator = library, k, n, generator
        self._encode_tables = self._tables(generator[k * k :])
        # Inverting takes some 10 µs; a cluster shows few patterns of loss at a time.
        self._recovery = lru_cache(_PATTERNS_CACHED)(self._recovery_tables)

    def encode(self, stripe: memoryview, shard_bytes: int) -> None:
        """From the k data rows compute the parity rows."""
        rows = range(self._n)
        self._multiply(stripe, shard_bytes, self._encode_tables, rows[: self._k], rows[self._k :])

    def recover(
        self, stripe: memoryview, shard_bytes: int, have: Sequence[int], missing: Sequence[int]
    ) -> None:
        """From the k rows `have` compute the rows `missing`."""
        tables = self._recovery(tuple(have), tuple(missing))
        self._multiply(stripe, shard_bytes, tables, have, missing)

    def _multiply(
        self,
        stripe: memoryview,
        shard_bytes: int,
        tables: ctypes.Array[ctypes.c_char],
        sources: Sequence[int],
        targets: Sequence[int],
    ) -> None:
        if not targets:
            return
        base = ctypes.addressof(ctypes.c_char.from_buffer(stripe))
        source_pointers = _pointers(base, shard_bytes, sources)
        target_pointers = _pointers(base, shard_bytes, targets)
        self._library.ec_encode_data(
            shard_bytes, len(sources), len(targets), tables, source_pointers, target_pointers
        )

    def _tables(self, matrix: bytes) -> ctypes.Array[ctypes.c_char]:
        tables = ctypes.create_string_buffer(max(1, _TABLE_BYTES_PER_CELL * len(matrix)))
        self._library.ec_init_tables(self._k, len(matrix) // self._k, matrix, tables)
        return tables

    def _recovery_tables(
        self, have: tuple[int, ...], missing: tuple[int, ...]
    ) -> ctypes.Array[ctypes.c_char]:
        """Rows `missing` of the generator times the inverse of its rows `have`."""
        k, multiply = self._k, self._library.gf_mul
        survivors = ctypes.create_string_buffer(b"".join(map(self._row, have)), k * k)
        inverse = ctypes.create_string_buffer(k * k)
        if self._library.gf_invert_matrix(survivors, inverse, k) != 0:
            raise ArithmeticError(f"rows {have} of the generator matrix are not independent")
        cells = bytearray()
        for row in map(self._row, missing):
            for column in range(k):
                cell = 0
                for step in range(k):
                    cell ^= multiply(row[step], inverse.raw[step * k + column])
                cells.append(cell)
        return self._tables(bytes(cells))

    def _row(self, number: int) -> bytes:
        return self._generator[number * self._k : (number + 1) * self._k]


def _pointers(base: int, shard_bytes: int, rows: Sequence[int]) -> bytes:
    """An array of pointers, packed: quicker to make than one of ctypes."""
    return struct.pack(f"{len(rows)}P", *[base + row * shard_bytes for row in rows])

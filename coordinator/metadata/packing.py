"""How values are written into columns that have no type for them."""

from collections.abc import Iterable, Sequence
from functools import lru_cache


def pack_layout(layout: Sequence[int]) -> bytes:
    return b"".join(number.to_bytes(2, "big") for number in layout)


@lru_cache(4096)  # a database has few layouts beside its segments
def unpack_layout(packed: bytes) -> tuple[int, ...]:
    return tuple(int.from_bytes(packed[at : at + 2], "big") for at in range(0, len(packed), 2))


def signed(generation: int) -> int:
    """Databases have signed integers only; generations use 63 bits, which this asserts."""
    if not 0 <= generation < 1 << 63:
        raise ValueError(f"generation out of range: {generation}")
    return generation


def mask_of(indexes: Iterable[int]) -> int:
    """A set of shards as a number: bit i stands for shard i."""
    mask = 0
    for index in indexes:
        mask |= 1 << index
    return mask

"""What may happen to the bytes of a node: in its volumes, and in its index."""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from common.record import HEADER_BYTES
from shardd.volume import PAGE_BYTES, SUPERBLOCK_BYTES

Files = dict[str, bytearray]  # by path


class Place(NamedTuple):
    """Where a record lies: header, then payload, without padding."""

    path: str
    offset: int
    size_bytes: int

    @property
    def end(self) -> int:
        return self.offset + self.size_bytes


@dataclass(frozen=True, slots=True)
class Rot:
    """Harms these volumes, which hold these records."""

    files: Files
    places: Sequence[Place]
    chance: random.Random

    def any_volume(self) -> bytearray:
        return self.files[self.chance.choice(sorted(self.files))]

    def flip(self) -> None:
        flip_bit(self.any_volume(), self.chance)

    def flip_header(self) -> None:
        place = self.chance.choice(self.places)
        flip_bit(self.files[place.path], self.chance, place.offset, HEADER_BYTES)

    def flip_superblock(self) -> None:
        flip_bit(self.any_volume(), self.chance, 0, 48)

    def scramble_superblock(self) -> None:
        self.any_volume()[:SUPERBLOCK_BYTES] = self.chance.randbytes(SUPERBLOCK_BYTES)

    def truncate(self) -> None:
        volume = self.any_volume()
        del volume[self.chance.randint(0, len(volume)) :]

    def extend(self) -> None:
        """By zeros, noise, or what stands elsewhere."""
        other, size = bytes(self.any_volume()), self.chance.randint(1, 20_000)
        at = self.chance.randint(0, len(other) // 8) * 8
        more = (bytes(size), self.chance.randbytes(size), other[at : at + size])
        self.any_volume().extend(self.chance.choice(more))

    def zero_page(self) -> None:
        self._fill_page(bytes(PAGE_BYTES))

    def scramble_page(self) -> None:
        self._fill_page(self.chance.randbytes(PAGE_BYTES))

    def _fill_page(self, data: bytes) -> None:
        volume = self.any_volume()
        at = self.chance.randint(0, len(volume) // PAGE_BYTES) * PAGE_BYTES
        volume[at : at + PAGE_BYTES] = data[: max(0, len(volume) - at)]

    def swap(self) -> None:
        """Two records of one size change places: index, segment or generation are another's."""
        one = self.chance.choice(self.places)
        alike = [place for place in self.places if place.size_bytes == one.size_bytes]
        other = self.chance.choice(alike)
        first, second = self._bytes(one), self._bytes(other)
        self._put(one, second)
        self._put(other, first)

    def misdirect(self) -> None:
        """A write that went to the wrong place."""
        source, target = self.chance.choice(self.places), self.chance.choice(self.places)
        self._put(target, self._bytes(source))

    def _bytes(self, place: Place) -> bytes:
        return bytes(self.files[place.path][place.offset : place.end])

    def _put(self, place: Place, data: bytes) -> None:
        volume = self.files[place.path]
        volume[place.offset : place.offset + len(data)] = data


KINDS: tuple[Callable[[Rot], None], ...] = (
    Rot.flip, Rot.flip_header, Rot.flip_superblock, Rot.scramble_superblock, Rot.truncate,
    Rot.extend, Rot.zero_page, Rot.scramble_page, Rot.swap, Rot.misdirect,
)  # fmt: skip


def flip_bit(data: bytearray, chance: random.Random, start: int = 0, size: int = 0) -> None:
    """One bit of `data`, or of `size` bytes of it from `start` on."""
    end = min(start + size, len(data)) if size else len(data)
    if start < end:
        data[chance.randrange(start, end)] ^= 1 << chance.randrange(8)


def damaged_index(index: bytes, chance: random.Random) -> bytes:
    """Flipped, cut, grown, a page zeroed or scrambled, or two pages exchanged."""
    data, pages = bytearray(index), len(index) // PAGE_BYTES
    one, other = (PAGE_BYTES * chance.randrange(pages) for _ in range(2))
    match chance.randrange(6):
        case 0:
            flip_bit(data, chance)
        case 1:
            del data[chance.randrange(len(data)) :]
        case 2:
            data += chance.randbytes(chance.randint(1, 9000))
        case 3:
            data[one : one + PAGE_BYTES] = bytes(PAGE_BYTES)
        case 4:
            data[one : one + PAGE_BYTES] = chance.randbytes(PAGE_BYTES)
        case _:
            data[one : one + PAGE_BYTES] = index[other : other + PAGE_BYTES]
            data[other : other + PAGE_BYTES] = index[one : one + PAGE_BYTES]
    return bytes(data)

"""Payloads that hold what looks like records of the volume in which they lie.

Whoever stores such bytes waits for the header of the record around them to be lost: then a node
that starts again finds what is in them where it looks for records.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from common.hashing import blake3_digest
from common.ids import ShardAddress
from common.record import HEADER_BYTES, shard_header, tombstone_header
from common.shards import ShardRecord
from common.units import KIB
from shardd.index import remove_index
from shardd.volume import VolumeClass, align_up
from tests.reopened import volume
from tests.stores import make_shard

HIGHEST = 1 << 62  # of the sequence numbers that recovery takes
DAMAGES = ("rotten", "torn")  # the latter without any rot: a power loss before it was acknowledged


@dataclass(frozen=True, slots=True)
class Sizes:
    """Payloads for one class of volumes: of the record around, and of those inside."""

    volume_class: VolumeClass
    outer: int
    inner: int


SMALL = Sizes(VolumeClass.SMALL, 6000, 40)
LARGE = Sizes(VolumeClass.LARGE, 500 * KIB, 70 * KIB)


def embedded_shard(shard: ShardRecord, sequence: int) -> bytes:
    return shard_header(shard.info, sequence) + bytes(shard.payload)


def embedded_tombstone(address: ShardAddress, sequence: int) -> bytes:
    return tombstone_header(address, sequence)


def other_bytes(shard: ShardRecord) -> ShardRecord:
    """The same address and size, another payload, and its right checksum."""
    payload = bytes(byte ^ 0x55 for byte in shard.payload)
    return ShardRecord(shard.info._replace(checksum=blake3_digest(payload)), payload)


def spring(
    path: Path, number: int, at: int, sizes: Sizes, inside: Iterable[bytes], damage: str
) -> None:
    """The record at `at` of this volume has held `inside` all along, each where a record may
    stand, and now its header is gone. So is the index."""
    data, alignment = bytearray(volume(path, number).read_bytes()), sizes.volume_class.alignment
    place = align_up(at + 1024, alignment)
    for piece in inside:
        data[place : place + len(piece)] = piece
        place = align_up(place + len(piece), alignment)
    if place > at + HEADER_BYTES + sizes.outer:
        raise AssertionError("the trap is too small")
    if damage == "rotten":
        data[at + 20] ^= 1
    else:
        data[at : at + 512] = bytes(512)
    volume(path, number).write_bytes(data)
    remove_index(path / "index.db")


def shards_for(sizes: Sizes, *seeds: int) -> list[ShardRecord]:
    return [make_shard(sizes.inner, seed) for seed in seeds]

"""What is known of an address: values that the catalog keeps in memory and the index in SQLite.

Named tuples and not dataclasses: an entry goes to SQLite as it is, and tens of thousands of
locations are kept.
"""

from typing import NamedTuple

from common.ids import ShardAddress
from common.record import RecordHeader, RecordKind
from common.shards import Encoding, ShardInfo

UNCERTAIN = 0  # less than any sequence number that is given

_SHARD = RecordKind.SHARD


class Location(NamedTuple):
    """Where the latest record of an address starts. A tombstone's is not live."""

    volume: int
    offset: int
    payload_bytes: int
    live: bool


class Entry(NamedTuple):
    """A row of the index, in the order of its columns. `sequence` is UNCERTAIN if what the record
    says of it is not to be believed (scan.py): then anything that is certain is later."""

    key: bytes
    volume: int
    offset: int
    payload_bytes: int
    live: bool
    sequence: int
    k: int
    n: int
    segment_bytes: int
    encoding: int
    checksum: bytes

    @classmethod
    def of(cls, header: RecordHeader, volume: int, offset: int) -> "Entry":
        kind, sequence, info = header
        address, k, n, segment_bytes, encoding, payload_bytes, checksum = info
        return cls(
            address.key, volume, offset, payload_bytes, kind is _SHARD, sequence,
            k, n, segment_bytes, int(encoding), checksum,
        )  # fmt: skip

    @property
    def is_certain(self) -> bool:
        return self.sequence != UNCERTAIN

    def made_uncertain(self) -> "Entry":
        return self._replace(sequence=UNCERTAIN)

    @property
    def location(self) -> Location:
        return Location(self.volume, self.offset, self.payload_bytes, self.live)

    @property
    def info(self) -> ShardInfo:
        return ShardInfo(
            ShardAddress.from_key(self.key),
            self.k,
            self.n,
            self.segment_bytes,
            Encoding(self.encoding),
            self.payload_bytes,
            self.checksum,
        )

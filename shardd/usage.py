"""Who takes the room in a volume: what a batch of records changes in it.

A shard's record is dead once a later record of its address is durable. Dead records are listed as
buried, by address and volume: as long as a volume holds one, the tombstone over it must stay, or
an index made anew from the volumes would bring the shard back.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from common.record import HEADER_BYTES
from shardd.entries import Entry
from shardd.volume import VolumeClass

TOMBSTONE_BYTES = HEADER_BYTES


class VolumeUse(NamedTuple):
    """What the index points to in a volume. `live_bytes` is what the live shards occupy."""

    live_bytes: int = 0
    tombstones: int = 0


class Standing(NamedTuple):
    """What a row of the index says before it is overwritten."""

    volume: int
    offset: int
    payload_bytes: int
    live: bool
    sequence: int


@dataclass(slots=True)
class Changes:
    """`use` is what each volume gains, or loses if negative; `live` how many more shards there
    are; `buried` the dead records by key and volume."""

    use: dict[int, VolumeUse] = field(default_factory=dict)
    buried: set[tuple[bytes, int]] = field(default_factory=set)
    live: int = 0

    def count(self, record: Entry | Standing, times: int) -> None:
        """The index points to `record` from now on (1), or no longer (-1)."""
        live_bytes, tombstones = self.use.get(record.volume, _NOTHING)
        if record.live:
            self.live += times
            live_bytes += times * span_of(record.payload_bytes)
        else:
            tombstones += times
        self.use[record.volume] = VolumeUse(live_bytes, tombstones)


_NOTHING = VolumeUse()


def span_of(payload_bytes: int) -> int:
    """What a record occupies, in a volume of its class."""
    return VolumeClass.of(payload_bytes).span(payload_bytes)


def changes_of(before: Mapping[bytes, Standing], entries: Mapping[bytes, Entry]) -> Changes:
    """What writing `entries` over the rows `before` changes; the later sequence number wins."""
    changes = Changes()
    for key, entry in entries.items():
        old = before.get(key)
        if old is None:
            changes.count(entry, 1)
        elif entry.sequence < old.sequence:
            if entry.live:
                changes.buried.add((key, entry.volume))
        else:
            changes.count(old, -1)
            changes.count(entry, 1)
            if old.live and (old.volume, old.offset) != (entry.volume, entry.offset):
                changes.buried.add((key, old.volume))
    return changes


def loser_of(one: Entry, other: Entry) -> Entry | None:
    """Of two records of an address the one that is dead: `one` if they are equally late. None if
    both are the same record."""
    if (one.volume, one.offset) == (other.volume, other.offset):
        return None
    return one if other.sequence >= one.sequence else other

"""Flips bytes of live records where they lie, and says whose they are."""

import random

from common.ids import ShardAddress
from common.record import HEADER_BYTES
from shardd.entries import Entry
from shardd.store import VolumeStore


def live_entries(store: VolumeStore) -> list[Entry]:
    """What the index points to, in every volume."""
    catalog = store._catalog
    catalog.flush()
    return [
        entry
        for number in sorted(store._volumes.by_number)
        for entry in catalog.live_in(number, 0, 1_000_000)
    ]


def flip_one(store: VolumeStore, entry: Entry, at: int, mask: int = 1) -> None:
    """The byte at `at` of the record, header first."""
    with store._volumes.by_number[entry.volume].path.open("r+b") as file:
        file.seek(entry.offset + at)
        (old,) = file.read(1)
        file.seek(entry.offset + at)
        file.write(bytes([old ^ mask]))


def flip_many(store: VolumeStore, rng: random.Random, count: int) -> set[ShardAddress]:
    """`count` different bytes, all live bytes alike; but for every fourth a byte of a header."""
    entries = live_entries(store)
    weights = [HEADER_BYTES + entry.payload_bytes for entry in entries]
    places: set[tuple[Entry, int]] = set()
    while len(places) < count:
        if len(places) % 4 == 0:
            places.add((rng.choice(entries), rng.randrange(HEADER_BYTES)))
        else:
            (entry,) = rng.choices(entries, weights)
            places.add((entry, rng.randrange(HEADER_BYTES + entry.payload_bytes)))
    for entry, at in places:
        flip_one(store, entry, at, rng.randint(1, 255))
    return {ShardAddress.from_key(entry.key) for entry, _ in places}

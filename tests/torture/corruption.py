"""Nodes hand back anything at all: changed, cut, grown, emptied, or another shard's bytes. A
reader gets the content or an error, never a wrong byte; and the content while six shards are good.
"""

import logging
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from unittest.mock import patch

import aiohttp
import uvloop

from common.shards import ShardRecord
from common.units import KIB
from coordinator.metadata import StoredSegment
from tests.blobs import put
from tests.torture.outcome import Outcome, scaled, scratch
from tests.whole_path import Bed, flipped, memory_bed

ROW = 6
PROMISE = "never a wrong byte, and the right ones while six shards are good"
CORRUPTIONS = 10_000

SPARE = 3
SEGMENT = 96 * KIB  # verified on threads and streamed; smaller ones inline and in one write
SIZES = (1, 5, 6, 7, 4096, 40_000, SEGMENT - 1, SEGMENT, 2 * SEGMENT + 1, 4 * SEGMENT + 999)
CLEAR = "unreadable"


@dataclass
class Stored:
    """A content, and what every node holds of it."""

    id: str
    data: bytes
    segments: tuple[StoredSegment, ...]


@dataclass
class Store:
    """The bed, and all that shards can be swapped with."""

    bed: Bed
    random: random.Random
    contents: list[Stored] = field(default_factory=list)

    def any_record(self) -> ShardRecord:
        """Of any segment, any index, any generation."""
        content = self.random.choice(self.contents)
        segment = self.random.choice(content.segments)
        return self.bed.held(segment, self.random.randrange(segment.n))


Harm = Callable[[Store, StoredSegment, int], ShardRecord]


def _changed(record: ShardRecord, payload: bytes) -> ShardRecord:
    return ShardRecord(record.info, payload)


def flip(store: Store, segment: StoredSegment, index: int) -> ShardRecord:
    record = store.bed.held(segment, index)
    return _changed(
        record, flipped(record.payload, store.random.randrange(8 * segment.shard_bytes))
    )


def truncate(store: Store, segment: StoredSegment, index: int) -> ShardRecord:
    record = store.bed.held(segment, index)
    kept = store.random.randrange(len(record.payload))
    return _changed(record, bytes(record.payload)[:kept])


def extend(store: Store, segment: StoredSegment, index: int) -> ShardRecord:
    record = store.bed.held(segment, index)
    more = store.random.randbytes(store.random.randint(1, 4096))
    return _changed(record, bytes(record.payload) + more)


def zero(store: Store, segment: StoredSegment, index: int) -> ShardRecord:
    record = store.bed.held(segment, index)
    return _changed(record, bytes(len(record.payload)))


def scramble(store: Store, segment: StoredSegment, index: int) -> ShardRecord:
    record = store.bed.held(segment, index)
    return _changed(record, store.random.randbytes(len(record.payload)))


def swap_index(store: Store, segment: StoredSegment, index: int) -> ShardRecord:
    other = store.random.choice([i for i in range(segment.n) if i != index])
    return store.bed.held(segment, other)


def swap_segment(store: Store, segment: StoredSegment, index: int) -> ShardRecord:
    return store.any_record()


def swap_generation(store: Store, segment: StoredSegment, index: int) -> ShardRecord:
    """The address of an older act of writing, with bytes that never belonged to this one."""
    info = store.bed.held(segment, index).info
    older = info.address._replace(generation=max(0, segment.generation - 1))
    payload = store.random.randbytes(segment.shard_bytes)
    return ShardRecord(info._replace(address=older), payload)


HARMS: tuple[Harm, ...] = (
    flip, truncate, extend, zero, scramble, swap_index, swap_segment, swap_generation,
)  # fmt: skip


@dataclass
class Tally:
    corruptions: int = 0
    right: int = 0
    refused: int = 0
    cut_off: int = 0
    violations: list[str] = field(default_factory=list)

    def figure(self) -> str:
        return (
            f"{self.corruptions:,} corruptions, {len(self.violations)} violations; reads: "
            f"{self.right:,} right, {self.refused:,} refused, {self.cut_off:,} cut off"
        )


def main(scale: float, seed: int) -> Outcome:
    wanted = scaled(CORRUPTIONS, scale)
    with scratch("corruption") as directory, patch.object(logging, "lastResort", None):
        tally = uvloop.run(_run(directory, wanted, random.Random(seed)))
    return Outcome(tally.figure(), tally.violations)


async def _run(directory: Path, wanted: int, random_: random.Random) -> Tally:
    settings = {"segment_bytes": SEGMENT, "cache_bytes": 0, "cache_segment_bytes": 0}
    tally = Tally()
    async with memory_bed(directory, jobs=False, **settings) as bed:
        store = Store(bed, random_)
        for size in SIZES:
            data = random_.randbytes(size)
            id_ = await put(bed.http, data)
            store.contents.append(Stored(id_, data, await bed.segments(id_)))
        while tally.corruptions < wanted:
            await _one(store, tally)
        if bed.coordinator.buffers.used_bytes:
            tally.violations.append(
                f"{bed.coordinator.buffers.used_bytes} bytes are not given back"
            )
    return tally


async def _one(store: Store, tally: Tally) -> None:
    """Corrupt some shards of one segment of a content, read it, and put the shards back."""
    random_ = store.random
    content = random_.choice(store.contents)
    segment = random_.choice(content.segments)
    count = random_.randint(1, SPARE) if random_.random() < 0.7 else random_.randint(4, segment.n)
    harms = {index: random_.choice(HARMS) for index in random_.sample(range(segment.n), count)}
    with _harmed(store, segment, harms) as changed:
        tally.corruptions += len(harms)
        told = f"{content.id} of {len(content.data)} bytes: " + ", ".join(
            f"{harm.__name__} shard {index}" for index, harm in harms.items()
        )
        await _read(store, content, len(changed) <= SPARE, told, tally)


@contextmanager
def _harmed(store: Store, segment: StoredSegment, harms: dict[int, Harm]) -> Iterator[list[int]]:
    """While the block runs, these shards are harmed. Which of them differ: a swap may find the
    same bytes."""
    before = {index: store.bed.held(segment, index) for index in harms}
    after = {index: harm(store, segment, index) for index, harm in harms.items()}
    try:
        for index, record in after.items():
            store.bed.put_back(segment, index, record)
        yield [i for i in harms if bytes(after[i].payload) != bytes(before[i].payload)]
    finally:
        for index, record in before.items():
            store.bed.put_back(segment, index, record)


async def _read(store: Store, content: Stored, must: bool, told: str, tally: Tally) -> None:
    """All of it or a part. `must`: nothing but the right bytes will do."""
    start, end = 0, len(content.data)
    headers = {}
    if store.random.random() < 0.3:
        start = store.random.randrange(end)
        end = store.random.randint(start + 1, end)
        headers["Range"] = f"bytes={start}-{end - 1}"
    try:
        async with store.bed.http.get(f"/v1/blobs/{content.id}", headers=headers) as answer:
            body = await answer.read()
            said = await answer.json() if answer.status >= 400 else {}
    except (aiohttp.ClientPayloadError, aiohttp.ClientConnectionError):
        tally.cut_off += 1
        if must:
            tally.violations.append(f"cut off although six shards are good: {told}")
        return
    if answer.status in (200, 206):
        tally.right += 1
        if body != content.data[start:end]:
            tally.violations.append(f"wrong bytes from {start} to {end}: {told}")
    else:
        tally.refused += 1
        if must or (answer.status, said.get("code")) != (503, CLEAR):
            tally.violations.append(f"answered {answer.status} {said}: {told}")

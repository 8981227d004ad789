"""What the metadata database costs while it is empty, and when it is full."""

import asyncio
import os
import random
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from bench.measure import Costs, compared, cost_us
from bench.rows import Row
from common.ids import ContentId, SegmentId
from common.shards import Encoding
from coordinator.metadata import (
    OUTBOX,
    DeleteReason,
    Metadata,
    NewContent,
    ShardsOnNode,
    StoredSegment,
    open_metadata,
)
from coordinator.placement import Target, candidates, place
from coordinator.ring import Ring, RingNode

K, N = 6, 9
NODES, ZONES = 30, 10
SIZE_BYTES = 4096
CLIENTS = 64
CHUNK = 4096  # contents that the load commits at once
SAMPLE = 100_000  # contents that lookups choose from
WAITING_SHARE = 10  # one delete that waits for so many segments
LISTED = 256  # what the jobs ask for at once
DUE_OF_A_NODE = 32  # of LISTED contents, some 77 have a shard on each node
DAY_S = 86_400


class Layouts:
    """Layouts as placement makes them, on nodes that fill up."""

    def __init__(self) -> None:
        self._ring = Ring(RingNode(n, f"{n:032x}", 1 << 40) for n in range(1, NODES + 1))
        self._shards = dict.fromkeys(range(1, NODES + 1), 0)

    def next_for(self, segment: SegmentId) -> tuple[int, ...]:
        found = candidates(self._ring, self._target, dict, segment, K, N)
        layout = place(found, K, N).layout
        for number in layout:
            self._shards[number] += 1
        return layout

    def _target(self, number: int) -> Target:
        return Target(number, f"zone-{number % ZONES}", self._shards[number] / 1e9)


@dataclass
class Store:
    """A database under measurement, and some of the contents that it has."""

    metadata: Metadata
    layouts: Layouts = field(default_factory=Layouts)
    known: list[ContentId] = field(default_factory=list)

    def new_contents(self, count: int) -> list[NewContent]:
        return [self._new_content() for _ in range(count)]

    def _new_content(self) -> NewContent:
        id_ = SegmentId(os.urandom(32))
        stored = StoredSegment(
            id_, SIZE_BYTES, Encoding.PLAIN, K, N, self.metadata.new_generation(),
            self.layouts.next_for(id_), os.urandom(N * 32),
        )  # fmt: skip
        return NewContent(ContentId(id_), SIZE_BYTES, [stored], None, [stored])

    async def put(self, new: NewContent) -> None:
        """What a PUT asks of the database."""
        assert await self.metadata.find_segment(new.segments[0].id) is None
        assert (await self.metadata.commit_content(new)).new

    async def get(self, id_: ContentId) -> None:
        assert await self.metadata.find_content(id_) is not None

    async def collect(self) -> None:
        assert await self.metadata.collect(LISTED) == LISTED

    async def list_deletes(self) -> None:
        assert len((await self.metadata.due_deletes(1, DUE_OF_A_NODE)).rows) == DUE_OF_A_NODE


@asynccontextmanager
async def open_store(directory: Path) -> AsyncIterator[Store]:
    """Deleted contents may be collected at once."""
    metadata = open_metadata(directory, "", grace_s=0)
    await metadata.start()
    await metadata.take_lease(OUTBOX, DAY_S)
    session = asyncio.create_task(metadata.keep_session())
    try:
        yield Store(metadata)
    finally:
        session.cancel()
        with suppress(asyncio.CancelledError):
            await session
        await metadata.close()


async def load(store: Store, segments: int) -> None:
    """Commit so many contents of one segment each, in the product's own transactions, and
    deletes that wait for their node."""
    for at in range(0, segments, CHUNK):
        new = store.new_contents(min(CHUNK, segments - at))
        await asyncio.gather(*map(store.metadata.commit_content, new))
        store.known += [n.id for n in new if random.random() * segments < SAMPLE]
        waiting = [
            ShardsOnNode(n.segments[0].layout[0], (n.segments[0].address(0),))
            for n in new[::WAITING_SHARE]
        ]
        await store.metadata.add_deletes(waiting, DeleteReason.LEFTOVER)


async def measure(store: Store, calls: int) -> Costs:
    """Microseconds per call of each kind. Leaves the store as full as before, but for PUTs."""
    metadata, took = store.metadata, Costs()
    few = max(calls // 8, LISTED)
    for name, clients, count in (("1 client", 1, few), (f"{CLIENTS} clients", CLIENTS, calls)):
        new = store.new_contents(count)
        took[f"PUT, {name}"] = await cost_us(clients, [partial(store.put, n) for n in new])
        store.known += [n.id for n in new]
        asked = random.choices(store.known, k=8 * count)
        took[f"GET, {name}"] = await cost_us(clients, [partial(store.get, id_) for id_ in asked])
    gone = [store.known.pop() for _ in range(LISTED)]
    deletes = [partial(metadata.unpin, id_) for id_ in gone]
    took[f"DELETE, {CLIENTS} clients"] = await cost_us(CLIENTS, deletes)
    took[f"collect {LISTED} deleted contents"] = await cost_us(1, [store.collect])
    took[f"list {DUE_OF_A_NODE} due deletes of a node"] = await cost_us(
        1, [store.list_deletes] * 100
    )
    took["count all rows (no request does)"] = await cost_us(1, [metadata.counts])
    for node in range(1, NODES + 1):
        while (due := await metadata.due_deletes(node, LISTED)).rows:
            await metadata.finish_deletes(due)
    return took


async def measure_metadata(directory: Path, segments: int, rounds: int, calls: int) -> list[Row]:
    """`directory` keeps the full database. Empty ones are new in each round."""
    async with open_store(directory) as full:
        started_s = time.perf_counter()
        await load(full, segments)
        load_us = (time.perf_counter() - started_s) / segments * 1e6
        empty_runs, full_runs = [], []
        for _ in range(rounds):
            with tempfile.TemporaryDirectory(dir=directory.parent) as temporary:
                async with open_store(Path(temporary)) as empty:
                    empty_runs.append(await measure(empty, calls))
            full_runs.append(await measure(full, calls))
    size_bytes = (directory / "metadata.db").stat().st_size
    return [
        Row.of("metadata: segments loaded", "segments", [segments]),
        Row.of("metadata: load", "µs/segment", [load_us]),
        Row.of("metadata: size", "B/segment", [size_bytes / segments]),
        *compared("metadata", empty_runs, full_runs),
    ]

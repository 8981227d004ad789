"""A coordinator that works until it is killed, and one that takes over and looks what is left.

Each runs in a process of its own, over nodes that are directories. All that clients are told is
written to a journal before the next step, so that it survives the process.
"""

import asyncio
import json
import logging
import os
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

from common import failpoints
from common.errors import IdMismatch, NotFound, SixfoldError
from common.hashing import blake3_digest
from common.ids import ContentId, SegmentId, ShardAddress
from coordinator import sweep
from coordinator.deleting import CollectWorker, OutboxWorker
from coordinator.jobs import Worker
from coordinator.mend import Mender
from coordinator.metadata import Manifest, Metadata, open_metadata
from coordinator.metadata.packing import unpack_layout
from coordinator.metadata.rows import NO_NODE
from coordinator.sweep import SweepWorker
from coordinator.write_path import WritePath
from tests.file_store import FileStore
from tests.memory_cluster import MemoryCluster, body, get, leave_orphans, paths, put
from tests.metadata_parts import GRACE_S, Clock, seize_lease
from tests.reports import incoming

NODES = 4
SEGMENT_BYTES = 512
RUN_S = 10 * GRACE_S  # each process begins so much later than the one before
OPERATIONS = 12
ALL = 1_000  # segments; there are fewer


class Journal:
    """What clients were told: a line of JSON each."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def write(self, event: str, seed: int, size_bytes: int) -> None:
        with self._path.open("a") as file:
            file.write(json.dumps([event, seed, size_bytes]) + "\n")

    def states(self) -> dict[bytes, tuple[str, int, int]]:
        """The last event of each content, with its seed and size; by its bytes, since small ones
        of different seeds may be the same."""
        lines = self._path.read_text().splitlines() if self._path.exists() else []
        events = map(json.loads, lines)
        return {content(seed, size): (event, seed, size) for event, seed, size in events}


def content(seed: int, size_bytes: int) -> bytes:
    return random.Random(seed).randbytes(size_bytes)


def id_of(seed: int, size_bytes: int) -> ContentId:
    return ContentId(blake3_digest(content(seed, size_bytes)))


def process(directory: str, turn: int, seed: int, armed: str, last: bool) -> None:
    """One coordinator's life; ends with exit code 9 where it is `armed`."""
    failpoints.arm(armed, os._exit)
    sweep.PAGE_REST_S = 0
    logging.getLogger("coordinator").setLevel(logging.CRITICAL)
    asyncio.run(_live(Path(directory), turn, random.Random(f"{seed} {turn}"), last))


async def _live(directory: Path, turn: int, rng: random.Random, last: bool) -> None:
    async with _opened(directory, Clock(1_700_000_000 + turn * RUN_S)) as coordinator:
        if last:
            await coordinator.settle()
            violations = await coordinator.look()
            (directory / "violations.json").write_text(json.dumps(violations))
        else:
            await coordinator.work(rng)


@asynccontextmanager
async def _opened(directory: Path, clock: Clock) -> "AsyncIterator[_Coordinator]":
    nodes = MemoryCluster(NODES, lambda number: FileStore(directory / f"node-{number}"))
    metadata = open_metadata(directory, "", GRACE_S, clock)
    await metadata.start()
    for number in nodes.stores:
        await metadata.save_report(incoming(number))
    yield _Coordinator(metadata, nodes, clock, Journal(directory / "journal"))
    await metadata.close()


class _Coordinator:
    def __init__(
        self, metadata: Metadata, nodes: MemoryCluster, clock: Clock, journal: Journal
    ) -> None:
        self._metadata, self._nodes, self._clock, self._journal = metadata, nodes, clock, journal
        self._jobs: list[Worker] = [
            CollectWorker(metadata, nodes.cluster),
            SweepWorker(metadata, nodes.cluster, every_s=0),
            OutboxWorker(metadata, nodes.cluster),
        ]

    async def work(self, rng: random.Random) -> None:
        """Requests, some refused, and every job, with the time between that they wait for."""
        await leave_orphans(self._metadata, self._nodes, 3)
        with paths(self._metadata, self._nodes, SEGMENT_BYTES) as (writes, reads):
            for _ in range(OPERATIONS):
                known = list(self._journal.states().values())
                seed, size = rng.randrange(1 << 30), rng.choice([0, 1, 300, 512, 513, 1500])
                if known and rng.random() < 0.6:
                    _, seed, size = rng.choice(known)
                match rng.choice(["put", "put", "refused", "mend", "delete"]):
                    case "put":
                        self._journal.write("putting", seed, size)
                        await put(writes, content(seed, size))
                        self._journal.write("stored", seed, size)
                    case "refused":
                        data = content(seed ^ 1, size + 1)
                        with suppress(IdMismatch):
                            await writes.store(body(data), len(data), id_of(seed, size))
                        await writes.settle()
                    case "mend":
                        with suppress(NotFound):
                            await self._mend(await reads.find(id_of(seed, size)), writes, rng)
                    case "delete":
                        self._journal.write("deleting", seed, size)
                        await self._metadata.unpin(id_of(seed, size))
                        self._journal.write("deleted", seed, size)
        await self.settle()

    async def _mend(self, content: Manifest, writes: WritePath, rng: random.Random) -> None:
        """As repair does, or drain: a node has lost a shard, or is to be left."""
        mender = Mender(writes._services)
        for segment in content.segments:
            index = rng.randrange(segment.n)
            if rng.random() < 0.5:
                await self._nodes.stores[segment.layout[index]].delete([segment.address(index)])
            self._nodes.leaving = set(rng.sample(range(1, NODES + 1), rng.randrange(2)))
            await mender.mend(segment)
        self._nodes.leaving = set()

    async def _mend_all(self) -> None:
        with paths(self._metadata, self._nodes, SEGMENT_BYTES) as (writes, _):
            mender = Mender(writes._services)
            segments = await self._metadata.segments_after(b"", ALL)
            assert len(segments) < ALL
            for segment in segments:
                await mender.mend(segment)

    async def settle(self) -> None:
        """All shards come back. An orphan is noted, condemned a grace period later, and
        quarantined."""
        await self._mend_all()
        for _ in range(3):
            self._clock.now_s += GRACE_S
            await self._metadata._begin_session()
            await seize_lease(self._metadata)
            for job in self._jobs:
                while await job.step():
                    pass

    async def look(self) -> list[str]:
        """What should not be."""
        violations = []
        with paths(self._metadata, self._nodes, SEGMENT_BYTES) as (_, reads):
            for data, (event, seed, size) in self._journal.states().items():
                try:
                    whole = await get(reads, id_of(seed, size)) == data
                    found = "stored" if whole else "wrong bytes"
                except NotFound:
                    found = "deleted"
                except SixfoldError as error:
                    found = f"half there: {error}"
                allowed = {"stored": {"stored"}, "deleted": {"deleted"}}.get(
                    event, {"stored", "deleted"}
                )
                if found not in allowed:
                    violations.append(f"{size} bytes: {event}, but {found}")
        return violations + await self._leftovers()

    async def _leftovers(self) -> list[str]:
        named = set(await self._metadata._read(_named))
        orphans, missing = self._nodes.shards() - named, named - self._nodes.shards()
        counts = await self._metadata.counts()
        waiting = {table: counts[table] for table in ("outbox_delete", "collect_queue")}
        return [
            f"{what}: {found}"
            for what, found in (
                ("orphans", orphans),
                ("shards that are gone", missing),
                ("rows that wait", {table: rows for table, rows in waiting.items() if rows}),
                ("deletes are stopped", await self._metadata.deletes_stopped()),
            )
            if found
        ]


def _named(sql: Any) -> list[tuple[int, ShardAddress]]:
    rows = sql.rows(
        "SELECT s.id, s.generation, l.nodes FROM segment s JOIN layout l ON l.id = s.layout"
    )
    return [
        (node, ShardAddress(SegmentId(id_), generation, index))
        for id_, generation, nodes in rows
        for index, node in enumerate(unpack_layout(nodes))
        if node != NO_NODE
    ]

"""One schedule of the test `dedup`: who takes part, and what must hold."""

import asyncio
import random
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass

from common.errors import NotFound, SixfoldError
from common.hashing import blake3_digest
from common.ids import ContentId, SegmentId, ShardAddress
from coordinator.deleting import CollectWorker, OutboxWorker
from coordinator.jobs import Worker
from coordinator.mend import Mender
from coordinator.metadata import Metadata
from coordinator.metadata.packing import unpack_layout
from coordinator.metadata.rows import NO_NODE
from coordinator.metadata.store import SESSION_LEASE_S
from coordinator.read_path import ReadPath
from coordinator.sweep import SweepWorker
from coordinator.write_path import WritePath
from tests.memory_cluster import MemoryCluster, get, paths, put
from tests.metadata_parts import GRACE_S, Clock, seize_lease
from tests.schedules import GatedCluster, GatedThread, Gates, Step

NODES = 4
SEGMENT_BYTES = 64
CHANGES = (  # steps that begin so may change what layouts name, or what is there
    "delete", "quarantine", "A writes NewContent", "B writes NewContent", "A writes switch",
    "B writes switch",
)  # fmt: skip
EMPTIED = 8  # every how manyth schedule ends by deleting everything
TABLES = (
    "segment", "content", "content_segment", "pin", "collect_queue", "outbox_delete", "orphan",
    "repair_queue",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class World:
    """One database that two coordinators share, and nodes: used by one schedule after another."""

    clock: Clock
    nodes: MemoryCluster
    coordinators: tuple[Metadata, Metadata]
    direct: sqlite3.Connection  # to look at the database beside all steps


@dataclass(frozen=True, slots=True)
class Event:
    """What a client did, from which step to which, and whether it was told that it was done."""

    verb: str
    data: bytes
    began: int
    ended: int
    done: bool


class Schedule:
    """Clients, jobs and the clock, in one order of their steps."""

    def __init__(self, world: World, rng: random.Random) -> None:
        self.world, self.rng = world, rng
        self.gates = Gates(rng, self._look)
        self.violations: list[str] = []
        self._events: list[Event] = []
        one, other = rng.randbytes(SEGMENT_BYTES), rng.randbytes(40)
        self._contents = (one, other, one + other)  # the third has the others as its segments

    async def run(self) -> None:
        cluster = GatedCluster(self.world.nodes, self.gates, self.world.clock)
        straggler_s = self.rng.choice([0.0, 30.0])
        with self._gated(), paths_of_both(self.world, cluster, straggler_s) as both:
            self.gates.in_order = True
            await self.gates.run(self._prepare(*both[0]))
            self.gates.in_order = False
            await self.gates.run(
                *(self._client(*ends) for ends in both for _ in range(self.rng.choice([1, 1, 2]))),
                *(
                    self._job(m, job)
                    for m in self.world.coordinators
                    for job in _workers(m, cluster)
                ),
                *(self._mend(*of) for of in zip(self.world.coordinators, both, strict=True)),
                self._time(),
                self._clean_up(self.rng.choice(self.world.coordinators), cluster),
            )
            self.gates.in_order = True
            await self.gates.run(self._settle(cluster))
            self._check_no_orphans()
            self._check_lists()
            await self.gates.run(self._check_contents(both[0][1]))
            if self.rng.randrange(EMPTIED) == 0:
                await self.gates.run(self._remove_all(cluster))
                self._check_nothing_left()
        self._clear()

    @contextmanager
    def _gated(self) -> Iterator[None]:
        """The databases' threads behind gates."""
        threads = [
            (m._threads, m._threads.reader, m._threads.writer) for m in self.world.coordinators
        ]
        for name, (of_one, _, _) in zip("AB", threads, strict=True):
            reader = GatedThread(f"{name} reads", of_one.query, self.gates)
            writer = GatedThread(f"{name} writes", of_one.commit, self.gates)
            of_one.reader, of_one.writer = reader, writer  # type: ignore[assignment]
        try:
            yield
        finally:
            for of_one, reads, writes in threads:
                of_one.reader, of_one.writer = reads, writes

    @property
    def stored(self) -> int:
        """Uploads that were acknowledged."""
        return sum(event.done for event in self._events if event.verb in ("put", "vanish"))

    # Who takes part

    async def _prepare(self, writes: WritePath, reads: ReadPath) -> None:
        """Something may be there, or deleted lately, or left by an upload of a lost session."""
        for data in self._contents:
            for verb in self.rng.choice([(), ("put",), ("put", "delete")]):
                await self._do(verb, data, writes, reads)
        await writes.settle()

    async def _client(self, writes: WritePath, reads: ReadPath) -> None:
        for _ in range(self.rng.choice([1, 2, 3])):
            verb = self.rng.choice(["put", "put", "put", "vanish", "delete", "delete", "get"])
            await self._do(verb, self.rng.choice(self._contents), writes, reads)
        await writes.settle()

    async def _do(self, verb: str, data: bytes, writes: WritePath, reads: ReadPath) -> None:
        began = len(self.gates.done)
        try:
            done = await self._request(verb, data, writes, reads)
        except (SixfoldError, asyncio.CancelledError):
            done = False
        self._events.append(Event(verb, data, began, len(self.gates.done), done))

    async def _request(self, verb: str, data: bytes, writes: WritePath, reads: ReadPath) -> bool:
        if verb == "delete":
            await self.world.coordinators[self.rng.randrange(2)].unpin(_id(data))
        elif verb == "get":
            if await get(reads, _id(data)) != data:
                self.violations.append("a GET answered other bytes")
        else:
            upload = asyncio.ensure_future(put(writes, data))
            if verb == "vanish":
                self.gates.call("vanish", _nothing).add_done_callback(lambda _: upload.cancel())
            await upload
        return True

    async def _job(self, metadata: Metadata, worker: Worker) -> None:
        """The other one's lease has run out each time."""
        for _ in range(self.rng.randrange(10 if worker.name == "sweep" else 4)):
            with suppress(SixfoldError):
                await seize_lease(metadata, worker.name)
                await worker.step()

    async def _mend(self, metadata: Metadata, ends: tuple[WritePath, ReadPath]) -> None:
        """As repair and drain do: what is short of shards becomes whole, or shards move."""
        mender = Mender(ends[0]._services)
        for _ in range(self.rng.randrange(3)):
            data = self.rng.choice(self._contents[:2])
            self._drain(*self.rng.sample(range(1, NODES + 1), self.rng.randrange(2)))
            if known := await metadata.find_segment(SegmentId(blake3_digest(data))):
                with suppress(SixfoldError):
                    await mender.mend(known.stored)

    def _drain(self, *nodes: int) -> None:
        """These, and no others."""
        self.world.nodes.leaving.clear()
        self.world.nodes.leaving.update(nodes)

    async def _clean_up(self, metadata: Metadata, cluster: MemoryCluster) -> None:
        """Sometimes all that deletes runs to its end, with the time between that it takes."""
        if self.rng.random() < 0.5:
            return
        if self.rng.random() < 0.5:
            await self._lose_session()
        collect, outbox, swept = _workers(metadata, cluster)
        for _ in range(2):
            await self.gates.call("a grace period passes", self._pass_grace)
            for job in (collect, swept, outbox):
                with suppress(SixfoldError):
                    await seize_lease(metadata, job.name)
                    while await job.step():
                        pass

    async def _time(self) -> None:
        """A grace period passes, or a coordinator loses its session."""
        for _ in range(self.rng.randrange(4)):
            if self.rng.random() < 0.7:
                await self.gates.call("a grace period passes", self._pass_grace)
            else:
                await self._lose_session()

    async def _lose_session(self) -> None:
        loser = self.rng.choice(self.world.coordinators)
        await self.gates.call("a session is lost", lambda: self._lose(loser))
        await loser._begin_session()

    async def _pass_grace(self) -> None:
        """With all sessions renewed in time."""
        self.world.direct.execute(
            "UPDATE session SET expires_at = expires_at + ? WHERE expires_at >= ?",
            (GRACE_S, self.world.clock.now_s),
        )
        self.world.clock.now_s += GRACE_S

    async def _lose(self, loser: Metadata) -> None:
        self.world.direct.execute(
            "UPDATE session SET expires_at = expires_at + ? WHERE number <> ?",
            (SESSION_LEASE_S + 1, loser.session),
        )
        self.world.clock.now_s += SESSION_LEASE_S + 1

    async def _settle(self, cluster: MemoryCluster) -> None:
        """All jobs until nothing is left for them to do: an orphan is noted, condemned a grace
        period later, and quarantined."""
        first = self.world.coordinators[0]
        collect, outbox, swept = _workers(first, cluster)
        for _ in range(3):
            self.world.clock.now_s += GRACE_S
            for metadata in self.world.coordinators:
                await metadata._begin_session()
            await seize_lease(first)
            for job in (collect, swept, outbox):
                while await job.step():
                    pass

    async def _remove_all(self, cluster: MemoryCluster) -> None:
        for data in self._contents:
            await self.world.coordinators[0].unpin(_id(data))
        await self._settle(cluster)

    # What must hold

    def _look(self, step: Step) -> None:
        """After each step that may have changed it: what layouts name is there."""
        if self.violations or not step.name.startswith(CHANGES):
            return
        lost = [shard for shard in self._named() if not self._is_there(*shard)]
        if lost:
            (node, address), steps = lost[0], " < ".join(reversed(self.gates.done[-60:]))
            self.violations.append(f"{address} is gone from node {node} after {steps}")

    def _named(self) -> Iterator[tuple[int, ShardAddress]]:
        rows = self.world.direct.execute(
            "SELECT s.id, s.generation, l.nodes FROM segment s JOIN layout l ON l.id = s.layout"
        )
        for id_, generation, nodes in rows:
            for index, node in enumerate(unpack_layout(nodes)):
                if node != NO_NODE:
                    yield node, ShardAddress(SegmentId(id_), generation, index)

    def _is_there(self, node: int, address: ShardAddress) -> bool:
        return address in self.world.nodes.stores[node].records

    def _check_no_orphans(self) -> None:
        """But for shards of segments that wait for repair: it may come to look for them."""
        rows = self.world.direct.execute("SELECT segment, generation FROM repair_queue").fetchall()
        orphans = [
            (node, address)
            for node, address in self.world.nodes.shards() - set(self._named())
            if (bytes(address.segment), address.generation) not in rows
        ]
        if orphans:
            self.violations.append(f"{len(orphans)} orphans are left, such as {orphans[0]}")

    def _check_lists(self) -> None:
        """From which the database could be rebuilt."""
        (lost,) = self.world.direct.execute(
            "SELECT count(*) FROM content WHERE segment_list NOT IN (SELECT id FROM segment)"
        ).fetchone()
        if lost:
            self.violations.append("the segment list of a content is gone")

    async def _check_contents(self, reads: ReadPath) -> None:
        for data in self._contents:
            try:
                if await get(reads, _id(data)) != data:
                    self.violations.append("other bytes are read back")
            except NotFound:
                if self._must_be_there(data):
                    self.violations.append(f"an acknowledged content is gone: {self._events}")
            except SixfoldError as error:
                self.violations.append(f"a visible content cannot be read: {error}")

    def _must_be_there(self, data: bytes) -> bool:
        """Whether an upload was acknowledged, and no deletion ended after it began."""
        deletes = [e.ended for e in self._events if (e.verb, e.data) == ("delete", data)]
        return any(
            event.done
            and event.verb in ("put", "vanish")
            and max(deletes, default=0) <= event.began
            for event in self._events
            if event.data == data
        )

    def _check_nothing_left(self) -> None:
        """Everything was deleted: not a row, not a shard stays."""
        for table in TABLES:
            (rows,) = self.world.direct.execute(f"SELECT count(*) FROM {table}").fetchone()
            if rows:
                self.violations.append(f"{rows} rows of {table} are left")
        if shards := self.world.nodes.shards():
            self.violations.append(f"{len(shards)} shards are left in the end")

    def _clear(self) -> None:
        """The next begins with nothing."""
        self._drain()
        for table in TABLES:
            self.world.direct.execute(f"DELETE FROM {table}")
        for store in self.world.nodes.stores.values():
            store.records.clear()
            store.kept.clear()
            store.deleted.clear()


@contextmanager
def paths_of_both(
    world: World, cluster: MemoryCluster, straggler_s: float
) -> Iterator[list[tuple[WritePath, ReadPath]]]:
    """The write path and the read path of each coordinator."""
    a, b = world.coordinators
    with (
        paths(a, cluster, SEGMENT_BYTES, straggler_s) as of_a,
        paths(b, cluster, SEGMENT_BYTES, straggler_s) as of_b,
    ):
        yield [of_a, of_b]


def _workers(metadata: Metadata, nodes: MemoryCluster) -> tuple[Worker, Worker, Worker]:
    cluster = nodes.cluster
    return (
        CollectWorker(metadata, cluster),
        OutboxWorker(metadata, cluster),
        SweepWorker(metadata, cluster, every_s=0),
    )


def _id(data: bytes) -> ContentId:
    return ContentId(blake3_digest(data))


async def _nothing() -> None:
    pass

"""One schedule of the test `dedup`: who takes part, and in which order."""

import asyncio
import math
import random
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from common.errors import SixfoldError
from common.hashing import blake3_digest
from common.ids import SegmentId
from coordinator.deleting import CollectWorker, OutboxWorker
from coordinator.jobs import Worker
from coordinator.mend import Mender
from coordinator.metadata import Metadata
from coordinator.metadata.store import SESSION_LEASE_S
from coordinator.read_path import ReadPath
from coordinator.rebundle import RebundleWorker
from coordinator.sweep import SweepWorker
from coordinator.throttle import Throttle
from coordinator.write_path import WritePath
from tests.memory_cluster import MemoryCluster, get, paths, put
from tests.metadata_parts import GRACE_S, seize_lease
from tests.schedules import GatedCluster, GatedThread, Gates
from tests.torture.dedup_checks import TABLES, Checks, Event, World, content_id

NODES = 4
SEGMENT_BYTES = 64
EMPTIED = 8  # every how manyth schedule ends by deleting everything


class Schedule:
    """Clients, jobs and the clock, in one order of their steps."""

    def __init__(self, world: World, rng: random.Random) -> None:
        self.world, self.rng = world, rng
        one, other = rng.randbytes(SEGMENT_BYTES), rng.randbytes(40)
        self._contents = [one, other, one + other]  # the third has the others as its segments
        self._checks = Checks(world, self._contents)
        self.gates = Gates(rng, self._checks.look)
        self._checks.steps = self.gates.done
        self._events, self.violations = self._checks.events, self._checks.violations

    async def run(self) -> None:
        cluster = GatedCluster(self.world.nodes, self.gates, self.world.clock)
        straggler_s = self.rng.choice([0.0, 30.0])
        with self._gated(), paths_of_both(self.world, cluster, straggler_s) as both:
            rebundlers = [
                _rebundler(m, *ends) for m, ends in zip(self.world.coordinators, both, strict=True)
            ]
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
                *(self._job(*of) for of in zip(self.world.coordinators, rebundlers, strict=True)),
                *(self._mend(*of) for of in zip(self.world.coordinators, both, strict=True)),
                self._time(),
                self._clean_up(self.rng.choice(self.world.coordinators), cluster),
            )
            self.gates.in_order = True
            await self.gates.run(self._settle(cluster, rebundlers[0]))
            self._checks.no_orphans()
            self._checks.lists()
            await self.gates.run(self._checks.contents(both[0][1]))
            if self.rng.randrange(EMPTIED) == 0:
                await self.gates.run(self._remove_all(cluster, rebundlers[0]))
                self._checks.nothing_left()
        self._clear()

    @contextmanager
    def _gated(self) -> Iterator[None]:
        """The databases' threads behind gates."""
        threads = [
            (m._threads, m._threads.reader, m._threads.writer) for m in self.world.coordinators
        ]
        for name, (of_one, _, _) in zip("AB", threads, strict=True):
            reader: Any = GatedThread(f"{name} reads", of_one.query, self.gates)
            writer: Any = GatedThread(f"{name} writes", of_one.commit, self.gates)
            of_one.reader, of_one.writer = reader, writer
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
            verb = self.rng.choice(
                ["put", "put", "put", "put all", "vanish", "delete", "delete", "get"]
            )
            if verb == "put all":
                await self._put_all(writes, reads)
            else:
                await self._do(verb, self.rng.choice(self._contents), writes, reads)
        await writes.settle()

    async def _put_all(self, writes: WritePath, reads: ReadPath) -> None:
        """Some that are new: those that wait while the first is being written are in a bundle
        then."""
        self._contents += [self.rng.randbytes(24) for _ in range(4)]
        contents = self.rng.sample(self._contents[-6:], 6)
        await asyncio.gather(*(self._do("put", data, writes, reads) for data in contents))

    async def _do(self, verb: str, data: bytes, writes: WritePath, reads: ReadPath) -> None:
        began = len(self.gates.done)
        try:
            done = await self._request(verb, data, writes, reads)
        except (SixfoldError, asyncio.CancelledError):
            done = False
        self._events.append(Event(verb, data, began, len(self.gates.done), done))

    async def _request(self, verb: str, data: bytes, writes: WritePath, reads: ReadPath) -> bool:
        if verb == "delete":
            await self.world.coordinators[self.rng.randrange(2)].unpin(content_id(data))
        elif verb == "get":
            if await get(reads, content_id(data)) != data:
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

    async def _settle(self, cluster: MemoryCluster, rebundler: Worker) -> None:
        """All jobs until nothing is left for them to do: an orphan is noted, condemned a grace
        period later, and quarantined."""
        first = self.world.coordinators[0]
        collect, outbox, swept = _workers(first, cluster)
        for _ in range(3):
            self.world.clock.now_s += GRACE_S
            for metadata in self.world.coordinators:
                await metadata._begin_session()
            await seize_lease(first)
            for job in (collect, rebundler, swept, outbox):
                while await job.step():
                    pass

    async def _remove_all(self, cluster: MemoryCluster, rebundler: Worker) -> None:
        for data in self._contents:
            await self.world.coordinators[0].unpin(content_id(data))
        await self._settle(cluster, rebundler)

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


def _rebundler(metadata: Metadata, writes: WritePath, reads: ReadPath) -> Worker:
    return RebundleWorker(metadata, reads, writes.bundler, Throttle(math.inf))


async def _nothing() -> None:
    pass

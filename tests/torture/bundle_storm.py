"""Clients, jobs and the clock of the test `bundles`, all at once."""

import asyncio
import math
import random
from collections.abc import Coroutine, Iterator, Sequence
from contextlib import suppress
from functools import partial
from typing import Any

from common.errors import SixfoldError
from coordinator.deleting import CollectWorker, OutboxWorker
from coordinator.jobs import Worker
from coordinator.metadata import Metadata
from coordinator.rebuild import Rebuild
from coordinator.rebundle import RebundleWorker
from coordinator.sweep import SweepWorker
from coordinator.throttle import Throttle
from coordinator.write_path import WritePath
from tests.bundles import Ends
from tests.memory_cluster import body
from tests.metadata_parts import GRACE_S, seize_lease
from tests.schedules import Gates
from tests.torture.bundle_ledger import Ledger, State
from tests.torture.bundle_world import World

UPLOADS = ("put", "put", "put", "put", "put twice", "put twice", "vanish")
VERBS = (*UPLOADS, *["delete"] * 5, "get")


class Storm:
    """One for a while of a history: `ends` are those of the world's coordinators."""

    def __init__(
        self, world: World, ledger: Ledger, gates: Gates, ends: Sequence[Ends], rng: random.Random
    ) -> None:
        self.world, self.ledger, self.gates = world, ledger, gates
        self.ends, self.rng = ends, rng

    def everything(self) -> Iterator[Coroutine[Any, Any, None]]:
        yield from self.clients(VERBS)
        for metadata, ends in zip(self.world.coordinators, self.ends, strict=True):
            yield from (self._job(metadata, worker) for worker in workers(metadata, ends))
        yield self._time()

    def uploads(self) -> Iterator[Coroutine[Any, Any, None]]:
        yield from self.clients(UPLOADS)

    def clients(self, verbs: Sequence[str]) -> Iterator[Coroutine[Any, Any, None]]:
        """Each of some contents is the business of one client, who works at several at once."""
        contents = range(len(self.ledger.contents))
        chosen = self.rng.sample(contents, self.rng.choice([8, 16, len(contents)]))
        while chosen:
            count = self.rng.randint(1, 10)
            yield self._client(chosen[:count], verbs)
            del chosen[:count]

    async def rebuild(self, times: int = 1) -> None:
        """By one coordinator; the other begins a new session, since it ends all."""
        for _ in range(times):
            at = self.rng.randrange(2)
            reads = self.ends[at][1]
            await Rebuild(self.world.coordinators[at], reads._services.cluster, reads).run()
            await self.world.coordinators[1 - at]._begin_session()

    async def settle(self) -> None:
        self.ledger.unsettled.clear()
        for writes, reads in self.ends:
            await writes.settle()
            await reads.settle()
            bundler = writes.bundler
            if bundler._running or bundler._waiting:
                self.ledger.violations.append("uploads wait, though none is being written")

    # Who takes part

    async def _client(self, contents: Sequence[int], verbs: Sequence[str]) -> None:
        for _ in range(self.rng.choice([1, 1, 2])):
            await asyncio.gather(*(self._do(self.rng.choice(verbs), each) for each in contents))

    async def _do(self, verb: str, content: int) -> None:
        ends = self.rng.choice(self.ends)
        if verb == "delete":
            await self._delete(content, self.rng.choice(self.world.coordinators))
        elif verb == "get" and self.ledger.states[content] is State.THERE:
            await self.ledger.look(content, ends[1])
        elif verb == "put twice":
            await asyncio.gather(*(self.put(content, writes) for writes, _ in self.ends))
        elif verb == "vanish":
            await self._vanish(content, ends[0])
        elif verb == "put":
            await self.put(content, ends[0])

    async def _delete(self, content: int, metadata: Metadata) -> None:
        """What was not there may come by a rebuild that goes on."""
        if await metadata.unpin(self.ledger.ids[content]):
            self.ledger.deleted(content)
        elif self.ledger.states[content] is State.THERE:
            self.ledger.wrong(content, "there was nothing to delete")

    async def put(self, content: int, writes: WritePath) -> None:
        ledger, data = self.ledger, self.ledger.contents[content]
        ledger.begin(content)
        try:
            stored = await writes.store(body(data), len(data))
        except SixfoldError:
            ledger.failed(content)
            return
        ledger.stored(content)
        if stored.id != ledger.ids[content]:
            ledger.wrong(content, f"it was stored as {stored.id}")

    async def _vanish(self, content: int, writes: WritePath) -> None:
        """Whoever uploads it goes away, at some step."""
        upload = asyncio.ensure_future(self.put(content, writes))
        self.gates.call("vanish", _nothing).add_done_callback(lambda _: upload.cancel())
        try:
            await upload
        except asyncio.CancelledError:
            self.ledger.vanished(content)

    async def _job(self, metadata: Metadata, worker: Worker) -> None:
        """The other one's lease has run out each time."""
        for _ in range(self.rng.randrange(4)):
            with suppress(SixfoldError):
                await seize_lease(metadata, worker.name)
                await worker.step()

    async def _time(self) -> None:
        for _ in range(self.rng.randrange(3)):
            seconds = self.rng.choice([60, GRACE_S // 2 + 100, GRACE_S])
            await self.gates.call("time passes", partial(self._pass, seconds))
            if self.rng.random() < 0.2:
                loser = self.rng.choice(self.world.coordinators)
                await self.gates.call("a session ends", partial(self._end, loser))
                await loser._begin_session()

    async def _pass(self, seconds: int) -> None:
        self.world.pass_time(seconds)

    async def _end(self, loser: Metadata) -> None:
        self.world.end_session(loser)


def workers(metadata: Metadata, ends: Ends) -> list[Worker]:
    """All that deletes, and what moves small contents together."""
    writes, reads = ends
    cluster = reads._services.cluster
    return [
        CollectWorker(metadata, cluster),
        RebundleWorker(metadata, reads, writes.bundler, Throttle(math.inf)),
        OutboxWorker(metadata, cluster),
        SweepWorker(metadata, cluster, every_s=0),
    ]


async def _nothing() -> None:
    pass

"""Runs concurrent code one step at a time, in an order that follows from a seed.

Whatever goes outside (a question to the database, a call of a node) is handed to `Gates` and waits
there. When nothing else can go on, one of the waiting calls is chosen and done. So every order of
the steps of all actors can come about, and comes about again with the same seed. This is what
Shuttle does for Rust and Coyote for .NET, at the level of the steps that other processes see.

Half of the schedules choose by chance at each step. The others are those of Burckhardt et al., "A
randomized scheduler with probabilistic guarantees of finding bugs" (ASPLOS 2010): the actor of the
highest random priority goes on, and at a few random steps the one that is on gets the lowest. That
finds faults which need one actor to pause at one place while others come a long way.
"""

import asyncio
import random
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

from common.errors import NodeTimeout
from common.ids import ShardAddress
from common.shards import ShardInfo, ShardMissing, ShardRecord
from common.upkeep import Quarantined
from tests.memory_cluster import KeepingStore, MemoryCluster

DEADLINE_S = 15.0  # of what is sent to a node
LONG_RUN = 120  # steps within which priorities change
SETTLED_AFTER = 12  # turns of the loop: more than any chain of callbacks between two steps


actor: ContextVar[int] = ContextVar("actor", default=0)  # on whose behalf this code runs


@dataclass(frozen=True, slots=True)
class Step:
    """One call that waits. `work` is done even if nobody waits for it any more: it was sent."""

    actor: int
    name: str
    work: Callable[[], Awaitable[Any]]
    answer: "asyncio.Future[Any]"


class Gates:
    """Where the calls of one schedule wait."""

    def __init__(self, rng: random.Random, look: Callable[[Step], None]) -> None:
        """`look` is called after each step."""
        self._rng, self._look = rng, look
        self._by_priority = rng.random() < 0.5
        self._priorities: defaultdict[int, float] = defaultdict(rng.random)
        self._changes = {int(LONG_RUN ** rng.random()) for _ in range(rng.choice([1, 2, 3, 5]))}
        self._chosen = 0
        self.waiting: list[Step] = []
        self.done: list[str] = []  # names of steps, in order
        self.in_order = False  # oldest first, instead of by chance

    def call(self, name: str, work: Callable[[], Awaitable[Any]]) -> "asyncio.Future[Any]":
        answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self.waiting.append(Step(actor.get(), name, work, answer))
        return answer

    async def run(self, *actors: Coroutine[Any, Any, None]) -> None:
        """Until all have ended and no call waits. Raises what an actor raises."""
        tasks = [self._start(number, running) for number, running in enumerate(actors, 1)]
        await self._settle()
        while self.waiting or not all(task.done() for task in tasks):
            assert self.waiting, "nobody can go on"
            await self._do(self._choose())
            await self._settle()
        for task in tasks:
            if not task.cancelled():
                task.result()

    @staticmethod
    def _start(number: int, running: Coroutine[Any, Any, None]) -> "asyncio.Task[None]":
        token = actor.set(number)
        try:
            return asyncio.create_task(running)  # which takes this context, and its tasks do too
        finally:
            actor.reset(token)

    def _choose(self) -> Step:
        if self.in_order:
            return self.waiting.pop(0)
        if self._by_priority:
            self._chosen += 1
            first = max(self.waiting, key=lambda step: self._priorities[step.actor])
            if self._chosen in self._changes:
                self._priorities[first.actor] = -self._chosen
                first = max(self.waiting, key=lambda step: self._priorities[step.actor])
            candidates = [n for n, s in enumerate(self.waiting) if s.actor == first.actor]
            return self.waiting.pop(self._rng.choice(candidates))
        return self.waiting.pop(self._rng.randrange(len(self.waiting)))

    async def _do(self, step: Step) -> None:
        self.done.append(step.name)
        result, error = None, None
        try:
            result = await step.work()
        except Exception as raised:
            error = raised
        self._look(step)
        if step.answer.done():
            return
        if error is not None:
            step.answer.set_exception(error)
        else:
            step.answer.set_result(result)

    async def _settle(self) -> None:
        for _ in range(SETTLED_AFTER):
            await asyncio.sleep(0)


class GatedThread:
    """In place of a BatchThread of the database: each question is a step, and a batch of its own.
    No thread: only one step is done at a time."""

    def __init__(self, name: str, work: Callable[[list[Any]], Sequence[Any]], gates: Gates) -> None:
        self._name, self._work, self._gates = name, work, gates

    def ask(self, question: Any) -> "asyncio.Future[Any]":
        asked = getattr(question, "func", question)
        name = f"{self._name} {getattr(asked, '__name__', type(asked).__name__)}"
        return self._gates.call(name, lambda: self._answer(question))

    async def _answer(self, question: Any) -> Any:
        (answer,) = self._work([question])
        if isinstance(answer, BaseException):
            raise answer
        return answer


class GatedStore:
    """A node, each call of which is a step."""

    def __init__(
        self, number: int, store: KeepingStore, gates: Gates, now_s: Callable[[], float]
    ) -> None:
        self._number, self._store, self._gates, self._now_s = number, store, gates, now_s

    def append(self, records: Sequence[ShardRecord]) -> "asyncio.Future[None]":
        # Whoever is cancelled may use the payload's memory anew while the call is on its way.
        kept = [ShardRecord(record.info, bytes(record.payload)) for record in records]
        return self._call("append", lambda: self._store.append(kept))

    def read(
        self, addresses: Sequence[ShardAddress], into: Sequence[memoryview] | None = None
    ) -> "asyncio.Future[list[ShardRecord | ShardMissing]]":
        return self._call("read", lambda: self._store.read(addresses))

    def delete(self, addresses: Sequence[ShardAddress], epoch: int) -> "asyncio.Future[None]":
        sent_at_s = self._now_s()

        async def delete() -> None:
            self._refuse_old(sent_at_s)
            await self._store.delete(addresses, epoch)

        return self._call("delete", delete)

    def quarantine(self, addresses: Sequence[ShardAddress], epoch: int) -> "asyncio.Future[int]":
        sent_at_s = self._now_s()

        async def quarantine() -> int:
            self._refuse_old(sent_at_s)
            return await self._store.quarantine(addresses, epoch)

        return self._call("quarantine", quarantine)

    def _refuse_old(self, sent_at_s: float) -> None:
        """As deadlines do, which this leaves to the clock of the test."""
        if self._now_s() - sent_at_s > DEADLINE_S:
            raise NodeTimeout("too late")

    async def _page(self, after: ShardAddress | None) -> list[ShardInfo]:
        return [info async for info in self._store.list(after)]

    def restore(self, addresses: Sequence[ShardAddress]) -> "asyncio.Future[int]":
        return self._call("restore", lambda: self._store.restore(addresses))

    async def quarantined(self) -> AsyncIterator[Quarantined]:
        for kept in await self._call("quarantined", self._kept):
            yield kept

    async def _kept(self) -> list[Quarantined]:
        return [kept async for kept in self._store.quarantined()]

    def _call(self, name: str, work: Callable[[], Awaitable[Any]]) -> "asyncio.Future[Any]":
        return self._gates.call(f"{name} on {self._number}", work)

    async def list(self, after: ShardAddress | None = None) -> AsyncIterator[ShardInfo]:
        page = await self._call("list", lambda: self._page(after))
        for info in page:
            yield info


class GatedCluster(MemoryCluster):
    """The same nodes, each call of which is a step."""

    def __init__(self, nodes: MemoryCluster, gates: Gates, now_s: Callable[[], float]) -> None:
        self.__dict__.update(nodes.__dict__)
        self._gated = {n: GatedStore(n, store, gates, now_s) for n, store in nodes.stores.items()}

    def store(self, number: int) -> GatedStore:
        return self._gated[number]

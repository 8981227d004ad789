"""Processes die at any moment, the coordinator too: what was acknowledged stays so."""

import asyncio
import os
import random
import signal
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from tests.torture.journal import RETRY_S, SEGMENT_BYTES, SIZES, Content, Journal, Recorder, State
from tests.torture.journal import session as session_of
from tests.torture.outcome import Outcome, scaled, scratch
from tests.torture.servers import COORDINATOR, Servers, node_names, running

ROW = 1
PROMISE = "acknowledged means readable, byte for byte, whatever is killed"
ACKNOWLEDGED, KILLS = 10_000, 200
WRITERS = 8
MOST_DOWN = 2  # with a third, some uploads would be refused, and the rest would prove less
OPTIONS = ("--segment-bytes", str(SEGMENT_BYTES), "--straggler-s", "0.2", "--grace-s", "5")


def main(scale: float, seed: int) -> Outcome:
    """Half of it on a coordinator of one process, half on one with two workers; a small part of
    it on the one or the other, as the seed wants it."""
    acknowledged, kills = scaled(ACKNOWLEDGED, scale, 100), scaled(KILLS, scale, 5)
    parts = [1 + seed % 2] if scale < 0.1 else [1, 2]
    with scratch("kills") as directory:
        runs = [
            asyncio.run(
                _run(directory / f"with-{workers}", workers, acknowledged // len(parts),
                     kills // len(parts), seed + workers)
            )
            for workers in parts
        ]  # fmt: skip
    violations = [violation for run in runs for violation in run.violations]
    done, deletes = (sum(getattr(r, what) for r in runs) for what in ("acknowledged", "deletes"))
    killed = sum(run.kills for run in runs)
    return Outcome(
        f"{done:,} acknowledged writes and {deletes:,} deletes over {killed} kills, "
        f"{len(violations)} lost",
        violations,
    )


@dataclass
class _Run:
    """Writers, and what kills; both go by what was acknowledged, never by time."""

    servers: Servers
    recorder: Recorder
    wanted: int
    wanted_kills: int
    chance: random.Random
    kills: int = 0
    _numbers: int = 0
    _in_use: set[str] = field(default_factory=set)

    @property
    def acknowledged(self) -> int:
        return self.recorder.journal.acknowledged

    @property
    def deletes(self) -> int:
        return self.recorder.journal.deletes

    @property
    def violations(self) -> list[str]:
        return self.recorder.violations

    @property
    def _over(self) -> bool:
        return self.acknowledged >= self.wanted and self.kills >= self.wanted_kills

    async def write(self, chance: random.Random) -> None:
        while not self._over:
            if chance.random() < 0.25 and (old := self._any(chance)) is not None:
                await self._use(old, chance)
            else:
                self._numbers += 1
                size_bytes = chance.choice(SIZES) or chance.randrange(2) * chance.randrange(9999)
                await self._put(Content(self._numbers, size_bytes))

    async def _put(self, content: Content) -> None:
        """Of the empty content there is only one: two writers would not know its state."""
        id_ = content.id
        if id_ in self._in_use or self.recorder.journal.states.get(id_) is State.UNKNOWN:
            return
        self._in_use.add(id_)
        if await self.recorder.put(content) not in (200, 201):
            await asyncio.sleep(RETRY_S)
        self._in_use.discard(id_)

    def _any(self, chance: random.Random) -> Content | None:
        journal = self.recorder.journal
        known = [id_ for id_, state in journal.states.items() if state is not State.UNKNOWN]
        free = [id_ for id_ in known[-200:] if id_ not in self._in_use]
        return journal.contents[chance.choice(free)] if free else None

    async def _use(self, content: Content, chance: random.Random) -> None:
        """Read, delete, or put again one that is known, deleted or not."""
        if self.recorder.journal.states[content.id] is State.DELETED or chance.random() < 0.2:
            await self._put(content)
            return
        self._in_use.add(content.id)
        await (self.recorder.delete if chance.random() < 0.4 else self.recorder.get)(content)
        self._in_use.discard(content.id)

    async def thrash(self) -> None:
        """Kills as evenly as the writers get on, and starts again what is down for long enough."""
        names = node_names(9)
        while self.kills < self.wanted_kills:
            await self._until(self.wanted * self.kills // self.wanted_kills)
            down = [name for name in names if not self.servers.runs(name)]
            if len(down) == MOST_DOWN or (down and self.chance.random() < 0.4):
                await self.servers.start(self.chance.choice(down))
                continue
            self.kills += 1
            if self.chance.random() < 0.25:
                await self._kill_coordinator()
            else:
                self.servers.kill(self.chance.choice([n for n in names if n not in down]))
        for name in names:
            if not self.servers.runs(name):
                await self.servers.start(name)

    async def _until(self, acknowledged: int) -> None:
        while self.acknowledged < acknowledged:
            await asyncio.sleep(0.005)

    async def _kill_coordinator(self) -> None:
        """Or one of its workers, which the supervisor replaces."""
        workers = self.servers.workers()
        if workers and self.chance.random() < 0.5:
            with suppress(ProcessLookupError):
                os.kill(self.chance.choice(workers), signal.SIGKILL)
            return
        self.servers.kill(COORDINATOR)
        await self.servers.start(COORDINATOR)


async def _run(directory: Path, workers: int, acknowledged: int, kills: int, seed: int) -> _Run:
    options = (*OPTIONS, "--workers", str(workers))
    async with running(directory, 9, options) as servers, session_of(servers.url) as http:
        recorder = Recorder(http, Journal(directory.with_suffix(".jsonl")))
        run = _Run(servers, recorder, acknowledged, kills, random.Random(seed))
        async with asyncio.TaskGroup() as group:
            for number in range(WRITERS):
                group.create_task(run.write(random.Random(f"{seed} {number}")))
            group.create_task(run.thrash())
        await servers.until_active(node_names(9))
        await recorder.check_all()
        servers.kill(run.chance.choice(node_names(9)))
        await recorder.check_all("with one node gone")
        return run

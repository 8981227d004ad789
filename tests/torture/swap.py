"""Disks in the wrong place: swapped, empty, hidden behind a mount, of another cluster."""

import asyncio
import random
import shutil
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp

from common.errors import Conflict, WrongCluster, WrongNode
from common.units import KIB
from shardd.sealed_json import seal, unseal
from sixfold.processes import until
from tests.torture.journal import RETRY_S, Content, Journal, Recorder
from tests.torture.journal import session as session_of
from tests.torture.mounts import mounted_over
from tests.torture.outcome import CannotRun, Outcome, scaled, scratch
from tests.torture.servers import DEADLINE_S, Servers, node_names, running

ROW = 11
PROMISE = "a disk in the wrong place takes no writes and raises an alarm"
ROUNDS, NODES = 20, 6
ALARM_S = 10.0
JUDGED = 0.5  # from this scale on a late alarm counts; a quick form asserts on no time
OPTIONS = ("--straggler-s", "0.2")
Kind = Callable[["_Test"], Awaitable[None]]


def main(scale: float, seed: int) -> Outcome:
    rounds = scaled(ROUNDS, scale)
    with scratch("swap") as directory:
        test = asyncio.run(_run(directory, rounds, seed))
    late = [one for one in test.alarms_s if one > ALARM_S]
    if scale >= JUDGED:
        test.violations += [f"an alarm after {one:.1f} s" for one in late]
    return Outcome(
        f"{rounds} rounds of {len(test.kinds)} kinds, {test.taken} writes taken, "
        f"{test.recorder.journal.acknowledged} others acknowledged, "
        f"alarm after {max(test.alarms_s):.1f} s at most",
        [*test.violations, *test.recorder.violations],
        test.left_out,
    )


@dataclass
class _Test:
    servers: Servers
    recorder: Recorder
    chance: random.Random
    kinds: Sequence[Kind]
    left_out: str
    alarms_s: list[float] = field(default_factory=list)
    violations: list[str] = field(default_factory=list)
    taken: int = 0
    over: bool = False

    def two(self) -> list[str]:
        return self.chance.sample(node_names(NODES), 2)

    async def write(self) -> None:
        """Beside all that happens."""
        number = 0
        while not self.over:
            number += 1
            await self.recorder.put(Content(number, self.chance.choice([100, 20 * KIB, 500 * KIB])))
            await asyncio.sleep(RETRY_S)  # there is no need for more

    async def alarm(self, *names: str) -> None:
        """Returns when the coordinator gives them nothing any more, and they say so themselves."""
        began_s = time.monotonic()
        await self.servers.until_state("detached", names)
        urls = [(await self.servers.nodes())[name]["http_url"] for name in names]
        async with aiohttp.ClientSession() as http:
            for url in urls:
                async with http.get(f"{url}/-/ready") as answer:
                    said = await answer.json()
                if answer.status != 503 or not said["failure"]:
                    self.violations.append(f"{url} is {answer.status}: {said}")
        self.alarms_s.append(time.monotonic() - began_s)

    async def is_refused(self, name: str, kind: type[Conflict]) -> None:
        """It does not start at all."""
        began_s = time.monotonic()
        self.servers.launch(name)
        if not await until(lambda: not self.servers.runs(name), DEADLINE_S):
            self.violations.append(f"{name} runs although its directory is not its own")
            self.servers.kill(name)
        elif (code := self.servers.ended_with(name)) != kind.exit_code:
            self.violations.append(f"{name} ended with {code}, not with {kind.code}")
        self.alarms_s.append(time.monotonic() - began_s)

    async def start_again(self, *names: str) -> None:
        await self.restart(*names)
        await self.servers.until_active(names)

    async def restart(self, *names: str) -> None:
        for name in names:
            if self.servers.runs(name):
                self.servers.kill(name)
        await asyncio.gather(*map(self.servers.start, names))

    @contextmanager
    def unchanged(self, directory: Path) -> Iterator[None]:
        """Nothing may be written to the volumes that lie there."""
        before = _sizes(directory)
        yield
        for path in _sizes(directory).items() - before.items():
            self.taken += 1
            self.violations.append(f"a write was taken: {path}")


def allowed(directory: Path) -> tuple[Sequence[Kind], str]:
    """The kinds that this machine allows; and of the one that it may not, why."""
    directory.mkdir()
    try:
        with mounted_over(directory):
            return _KINDS, ""
    except CannotRun as reason:
        kinds = [kind for kind in _KINDS if kind is not _hidden_while_it_runs]
        return kinds, f"a disk hidden behind a mount: {reason}"


def _sizes(directory: Path) -> dict[str, int]:
    return {path.name: path.stat().st_size for path in directory.rglob("*.vol")}


def _exchange(a: Path, b: Path) -> None:
    aside = a.with_name("aside")
    a.rename(aside)
    b.rename(a)
    aside.rename(b)


async def _swapped_while_they_run(test: _Test) -> None:
    one, two = test.two()
    if test.chance.random() < 0.5:  # their volumes are not open for writing then
        await test.restart(one, two)
    _exchange(test.servers.data(one), test.servers.data(two))
    await test.alarm(one, two)
    with test.unchanged(test.servers.data(one)), test.unchanged(test.servers.data(two)):
        await _some_writes(test)
    _exchange(test.servers.data(one), test.servers.data(two))
    await test.start_again(one, two)


async def _swapped_while_they_are_down(test: _Test) -> None:
    one, two = test.two()
    for name in (one, two):
        test.servers.kill(name)
    _exchange(test.servers.data(one), test.servers.data(two))
    with test.unchanged(test.servers.data(one)), test.unchanged(test.servers.data(two)):
        await test.is_refused(one, WrongNode)
        await test.is_refused(two, WrongNode)
        await _some_writes(test)
    _exchange(test.servers.data(one), test.servers.data(two))
    await test.start_again(one, two)


async def _empty_while_it_is_down(test: _Test) -> None:
    name, _ = test.two()
    data = test.servers.data(name)
    test.servers.kill(name)
    data.rename(aside := data.with_name("aside"))
    with test.unchanged(data):
        await test.is_refused(name, Conflict)
        await _some_writes(test)
    shutil.rmtree(data)
    aside.rename(data)
    await test.start_again(name)


async def _hidden_while_it_runs(test: _Test) -> None:
    name, _ = test.two()
    data = test.servers.data(name)
    with mounted_over(data):
        await test.alarm(name)
        with test.unchanged(data):
            await _some_writes(test)
        if left := list(data.iterdir()):
            test.violations.append(f"{name} has written into the mount over its disk: {left}")
        test.servers.kill(name)
    await test.start_again(name)


async def _of_another_cluster(test: _Test) -> None:
    name, _ = test.two()
    identity = test.servers.data(name) / "node.json"
    test.servers.kill(name)
    ours = identity.read_bytes()
    identity.write_bytes(seal({**unseal(ours), "cluster_id": "ab" * 16}))
    with test.unchanged(identity.parent):
        await test.is_refused(name, WrongCluster)
        await _some_writes(test)
    identity.write_bytes(ours)
    await test.start_again(name)


_KINDS: Sequence[Kind] = (
    _swapped_while_they_run,
    _swapped_while_they_are_down,
    _empty_while_it_is_down,
    _hidden_while_it_runs,
    _of_another_cluster,
)


async def _some_writes(test: _Test) -> None:
    wanted = test.recorder.journal.acknowledged + 5
    while test.recorder.journal.acknowledged < wanted:
        await asyncio.sleep(0.01)


async def _run(directory: Path, rounds: int, seed: int) -> _Test:
    async with running(directory, NODES, OPTIONS) as servers, session_of(servers.url) as http:
        recorder = Recorder(http, Journal(directory / "journal.jsonl"))
        kinds, left_out = allowed(directory / "probe")
        test = _Test(servers, recorder, random.Random(seed), kinds, left_out)
        writing = asyncio.create_task(test.write())
        try:
            for _ in range(rounds):
                for kind in test.chance.sample(test.kinds, len(test.kinds)):
                    await kind(test)
            test.over = True
            await writing
        finally:
            writing.cancel()
            with suppress(asyncio.CancelledError):
                await writing
        await recorder.check_all()
        return test

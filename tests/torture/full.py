"""Disks that fill up while contents are stored: success while spares last, then a clear refusal;
and deletes go on, so that there is a way out."""

import asyncio
import os
import random
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from common.units import KIB, MIB
from tests.torture.journal import Content, Journal, Recorder, State
from tests.torture.journal import session as session_of
from tests.torture.model_contents import segments_in, shards_in
from tests.torture.mounts import mounted_over
from tests.torture.outcome import Outcome, scaled, scratch
from tests.torture.servers import COORDINATOR, DEADLINE_S, Servers, node_names, running

ROW = 14
PROMISE = "full disks: success while spares last, then 507; deletes still work"
ROUNDS, NODES, SPARED = 20, 9, 4
DISK_BYTES, RESERVE_BYTES = 64 * MIB, 4 * MIB
# By whatever else fills the disk: of the reserve, but not all of it. What a node is writing at that
# moment, twelve shards of a sixth of 1 MiB at most, it does not know to come off that.
LEFT_BYTES = 3 * MIB
# Free on each node before a round: what a round stores on the five that are not filled, and as much
# again, since what was deleted comes back when the nodes find time to compact.
ROOM_BYTES = 24 * MIB
PUTS = 12  # at each step
SIZES = (100, 20 * KIB, 400 * KIB, 1 * MIB)
COORDINATOR_OPTIONS = ("--straggler-s", "0.2", "--grace-s", "1")
NODE_OPTIONS = ("--reserve", str(RESERVE_BYTES), "--volume-bytes", str(8 * MIB))


def main(scale: float, seed: int) -> Outcome:
    rounds = scaled(ROUNDS, scale)
    with scratch("full") as directory, ExitStack() as mounts:
        for name in node_names(NODES):
            (directory / name).mkdir()
            mounts.enter_context(mounted_over(directory / name, DISK_BYTES))
        test = asyncio.run(_run(directory, rounds, seed))
    return Outcome(
        f"{rounds} rounds: {test.stored} stored with up to {SPARED} full nodes, {test.refused} "
        f"refused with all full, {test.deleted} deleted",
        [*test.violations, *test.recorder.violations],
    )


@dataclass
class _Test:
    servers: Servers
    recorder: Recorder
    chance: random.Random
    violations: list[str] = field(default_factory=list)
    stored: int = 0
    refused: int = 0
    deleted: int = 0
    _numbers: int = 0

    async def round(self) -> None:
        names = self.chance.sample(node_names(NODES), NODES)
        for number, name in enumerate(names[:SPARED], 1):
            putting = asyncio.create_task(self.put((200, 201), f"with {number} full nodes"))
            await asyncio.to_thread(_fill, self.servers.data(name))
            self.stored += await putting
            self.stored += await self.put((200, 201), f"with {number} full nodes")
        for name in names[SPARED:]:
            await asyncio.to_thread(_fill, self.servers.data(name))
        self.refused += await self.put((507,), "with all nodes full")
        await self.delete_some()
        for name in names:
            (self.servers.data(name) / "ballast").unlink()
        await self.until_room()
        self.stored += await self.put((200, 201), "with room again")

    async def put(self, wanted: tuple[int, ...], why: str) -> int:
        """How many were answered as they should."""
        numbers = range(self._numbers, self._numbers + PUTS)
        self._numbers += PUTS
        contents = [Content(number, self.chance.choice(SIZES)) for number in numbers]
        statuses = await asyncio.gather(*map(self.recorder.put, contents))
        wrong = [status for status in statuses if status not in wanted]
        if wrong:
            self.violations.append(f"{why}: {wrong}, {self.recorder.refused[-3:]}")
        return PUTS - len(wrong)

    async def delete_some(self) -> None:
        """Half of all, until the nodes have done it: for a full node, that means to write."""
        present = list(self.recorder.journal.in_state(State.PRESENT))
        for content in self.chance.sample(present, len(present) // 2):
            self.deleted += await self.recorder.delete(content) == 204
        kept = -1
        try:
            async with asyncio.timeout(DEADLINE_S):
                while kept != self._shards_needed():
                    await asyncio.sleep(0.2)
                    kept = sum(n["shards"] for n in (await self.servers.nodes()).values())
        except TimeoutError:
            self.violations.append(f"{kept} shards are kept, {self._shards_needed()} are needed")

    def _shards_needed(self) -> int | None:
        """None while there still are segments that no content needs."""
        database = self.servers.data(COORDINATOR) / "metadata.db"
        needed, behind = shards_in(database), segments_in(database)
        return len(needed) if {bytes(each.segment) for _, each in needed} == behind else None

    async def until_room(self) -> None:
        """All nodes are as before: to be full is no failure."""
        await self.servers.until_active(node_names(NODES))
        async with asyncio.timeout(DEADLINE_S):
            while min(n["free_bytes"] for n in (await self.servers.nodes()).values()) < ROOM_BYTES:
                await asyncio.sleep(0.05)


def _fill(directory: Path) -> None:
    """Somebody else's file takes what is left of the disk."""
    found = os.statvfs(directory)
    left_bytes = found.f_bavail * found.f_frsize - LEFT_BYTES
    with (directory / "ballast").open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, max(1, left_bytes))


async def _run(directory: Path, rounds: int, seed: int) -> _Test:
    options = COORDINATOR_OPTIONS, NODE_OPTIONS
    async with running(directory, NODES, *options) as servers, session_of(servers.url) as http:
        recorder = Recorder(http, Journal(directory / "journal.jsonl"))
        test = _Test(servers, recorder, random.Random(seed))
        for _ in range(rounds):
            await test.round()
        await recorder.check_all()
        return test

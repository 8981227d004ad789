"""Nodes are lost for good, one to three of nine real processes, and empty ones come in their place;
meanwhile shards rot, and the coordinator is killed, or stopped until all nodes look lost to it.

In the end every shard of every content is good, on nine distinct nodes that are there, and the lost
nodes can be removed.
"""

import asyncio
import random
import shutil
import signal
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp

from common.ids import SegmentId, ShardAddress
from tests.torture.journal import RETRY_S, SEGMENT_BYTES, SIZES, Content, Journal, Recorder
from tests.torture.journal import session as session_of
from tests.torture.outcome import Outcome, scaled, scratch
from tests.torture.servers import COORDINATOR, Servers, node_names, running
from tests.torture.storage_node import StorageNode

ROW = 18
PROMISE = "what real nodes lose is rebuilt on nine distinct nodes, whatever dies meanwhile"
ROUNDS = 12
CONTENTS = 30  # more in each round
LOST_AFTER_S = 8
MOST_LOST = 3
PATIENCE_S = 180.0
OPTIONS = (
    "--segment-bytes", str(SEGMENT_BYTES), "--suspect-after-s", "5",
    "--lost-after-s", str(LOST_AFTER_S), "--repair-bytes-per-s", "2MiB",
)  # fmt: skip


def main(scale: float, seed: int) -> Outcome:
    rounds = scaled(ROUNDS, scale)
    with scratch("losses") as directory:
        test = asyncio.run(_run(directory, rounds, random.Random(seed)))
    violations = [*test.violations, *test.recorder.violations]
    return Outcome(
        f"{rounds} rounds, {test.lost} nodes lost, {test.rotten} shards rotten, {test.killed} "
        f"coordinators killed, {test.stopped} stopped past everything, {test.segments:,} stripes "
        f"looked at, {len(violations)} not whole again",
        violations,
    )


@dataclass
class _Test:
    servers: Servers
    recorder: Recorder
    http: aiohttp.ClientSession
    chance: random.Random
    names: list[str] = field(default_factory=lambda: node_names(9))
    violations: list[str] = field(default_factory=list)
    contents: list[Content] = field(default_factory=list)
    lost: int = 0
    rotten: int = 0
    killed: int = 0
    stopped: int = 0
    segments: int = 0
    _made: int = 9
    _rotted: set[SegmentId] = field(default_factory=set)  # in this round

    async def round(self) -> None:
        await self._store()
        lost = self.chance.sample(self.names, self.chance.randint(1, MOST_LOST))
        for name in lost:
            await self._lose(name)
        self._rotted = set()
        others = list(self.contents)
        self.chance.shuffle(others)
        half = len(others) // 2
        await self._rot(others[:half], MOST_LOST - len(lost))
        await self.servers.until_state("lost", lost)
        for again in range(self.chance.randint(1, 2)):
            await self._until_it_mends()
            await self._disturb()
            if not again:
                await self._rot(others[half:], MOST_LOST - len(lost))
        await self._until_whole()
        for name in lost:
            await self._remove(name)

    async def _store(self) -> None:
        for _ in range(CONTENTS):
            content = Content(len(self.contents), self.chance.choice(SIZES))
            while await self.recorder.put(content) not in (200, 201):
                await asyncio.sleep(RETRY_S)
            self.contents.append(content)

    async def _lose(self, name: str) -> None:
        """With its disk. An empty node comes in its place, under a name of its own."""
        self.servers.kill(name)
        shutil.rmtree(self.servers.data(name))
        self._made += 1
        new = f"node-{self._made}"
        await self.servers.start(new)
        self.names[self.names.index(name)] = new
        self.lost += 1

    async def _rot(self, contents: list[Content], most: int) -> None:
        """Up to so many shards of each segment, of those that are there; once, though contents may
        share it: the shortest are alike."""
        for content in contents:
            for address, name in [one async for one in self._some_shards(content, most)]:
                node = StorageNode(0, self.servers.data(name))
                self.rotten += node.flip(address, self.chance.randrange(99))

    async def _some_shards(
        self, content: Content, most: int
    ) -> AsyncIterator[tuple[ShardAddress, str]]:
        for segment in (await self._ask("get", f"/v1/blobs/{content.id}/explain"))["segments"]:
            id_, generation = SegmentId.parse(segment["id"]), int(segment["generation"], 16)
            if id_ in self._rotted:
                continue
            self._rotted.add(id_)
            there = [shard for shard in segment["shards"] if shard["name"] in self.names]
            for shard in self.chance.sample(there, min(len(there), self.chance.randint(0, most))):
                yield ShardAddress(id_, generation, shard["index"]), shard["name"]

    async def _until_it_mends(self) -> None:
        """Or has done so before anybody looked."""
        async with asyncio.timeout(PATIENCE_S):
            while True:
                repair = await self._repair()
                if repair.get("queued") or repair.get("layout") == -1:
                    return
                await asyncio.sleep(RETRY_S)

    async def _disturb(self) -> None:
        await asyncio.sleep(self.chance.random())
        if self.chance.random() < 0.3:
            self.stopped += 1
            self.servers.signal(COORDINATOR, signal.SIGSTOP)
            await asyncio.sleep(2 * LOST_AFTER_S)
            self.servers.signal(COORDINATOR, signal.SIGCONT)
        else:
            self.killed += 1
            self.servers.kill(COORDINATOR)
            await self.servers.start(COORDINATOR)
        await self.servers.until_active(self.names)

    async def _repair(self) -> dict[str, Any]:
        jobs = (await self._ask("get", "/-/admin/jobs"))["jobs"]
        return next((job["state"] for job in jobs if job["name"] == "repair"), {})

    async def _until_whole(self) -> None:
        """To verify a content puts into the queue what is bad: once is enough of that."""
        left = {content.id: "" for content in self.contents}
        try:
            async with asyncio.timeout(PATIENCE_S):
                while left:
                    for id_ in list(left):
                        left[id_] = await self._trouble(id_)
                        if not left[id_]:
                            del left[id_]
                    await asyncio.sleep(RETRY_S)
        except TimeoutError:
            self.violations += [f"{id_}: {trouble}" for id_, trouble in left.items()]

    async def _trouble(self, id_: str) -> str:
        """Empty if every shard is good, and each of a segment on another node that is there."""
        verified = await self._ask("post", f"/-/admin/verify/{id_}")
        if not verified["whole"]:
            return str(verified["bad"])
        for segment in (await self._ask("get", f"/v1/blobs/{id_}/explain"))["segments"]:
            nodes = {shard["name"] for shard in segment["shards"]}
            if len(nodes) < segment["n"] or not nodes <= set(self.names):
                return f"segment {segment['id']} is on {sorted(nodes)}"
        self.segments += verified["segments"]
        return ""

    async def _remove(self, name: str) -> None:
        """Lost and made up for: nothing speaks against it any more."""
        try:
            await self._ask("post", f"/-/admin/nodes/{name}/remove")
        except aiohttp.ClientResponseError as error:
            self.violations.append(f"{name} cannot be removed: {error.status}")

    async def _ask(self, verb: str, path: str) -> Any:
        async with self.http.request(verb, path) as answer:
            answer.raise_for_status()
            return await answer.json()


async def _run(directory: Path, rounds: int, chance: random.Random) -> _Test:
    async with running(directory, 9, OPTIONS) as servers, session_of(servers.url) as http:
        recorder = Recorder(http, Journal(directory / "journal.jsonl"))
        test = _Test(servers, recorder, http, chance)
        for _ in range(rounds):
            if test.violations:
                break  # what is not whole again may lose more than it can bear
            await test.round()
        await recorder.check_all()
        text = servers.directory.log(COORDINATOR).read_text()
        wrong = [line for line in text.splitlines() if "may still be good" in line]
        test.violations += [f"no segment was ever short of six shards: {line}" for line in wrong]
        return test

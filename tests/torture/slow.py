"""One node is slow: it has stopped without a word, answers 2 s late, or lets its bytes drip.
Readers must hardly notice, and the other nodes must not pay for it. Reads of a part that lies on
that node go around it; that costs what it costs when the node is away.

In one process: what makes the node slow stands where its lane would be, and counts what is asked
and how often a GET has waited for the slow node. And with real processes, one of which is stopped
(stopped_node.py).
"""

import asyncio
import random
import statistics
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from unittest.mock import patch

from common.errors import NodeUnreachable
from common.hashing import blake3_digest
from common.ids import ContentId, ShardAddress
from common.shards import ShardMissing, ShardRecord
from common.units import KIB
from coordinator.read_path import ReadPath
from shardd.store import VolumeStore
from tests.torture import stopped_node
from tests.torture.one_process import NODES, Direct, Front, Store
from tests.torture.outcome import Outcome, quiet, scaled, scratch

ROW = 13
PROMISE = "one slow node: GET p99 at most twice that of healthy nodes, at most 5 % extra requests"
GETS, RUNS = 2_000, 5  # of each kind: runs, of which the median counts
CONTENTS, SIZE_BYTES, AT_ONCE, K = 40, 20 * KIB, 4, 6
DELAY_S, DRIP_BYTES_PER_S = 2.0, 1 * KIB
SILENT_S = 4.0  # then a lane gives up
MOST = 2.0
MOST_EXTRA, MOST_SAVED = 0.05, 30  # as promised; a few may be saved up for when they are needed
RANGE_BYTES = 100  # one data shard of six; of nine nodes one is slow
MOST_RANGE_REQUESTS = 2.0  # for each range: 8/9 + K/9 if contents are spread evenly, and hedges
MOST_WAITED = 25  # GETs for a slow node itself, when no more hedges were allowed; never hedged, 60
JUDGED = 0.5  # from this scale on times count; a quick form judges the counts alone


class Pace(StrEnum):
    HEALTHY = "healthy"
    STOPPED = "stopped"
    DELAYED = "delayed"
    DRIPPING = "dripping"


def main(scale: float, seed: int) -> Outcome:
    gets, chance = scaled(GETS, scale, 300), random.Random(seed)
    with scratch("slow") as directory, quiet():
        test = asyncio.run(_run(Store(directory), gets, chance))
    with scratch("slow-stopped") as directory:
        runs = scaled(RUNS, scale)
        really = asyncio.run(stopped_node.ratios(directory, gets // 3, runs, chance))
    healthy_s = test.p99_s[Pace.HEALTHY]
    ratios = {str(pace): test.p99_s[pace] / healthy_s for pace in Pace if pace is not Pace.HEALTHY}
    ratios |= {f"a process, {size}": ratio for size, ratio in really.items()}
    violations = list(test.violations)
    violations += [
        f"{waited} {kind} waited for a slow node"
        for kind, waited in test.waited.items()
        if waited > MOST_WAITED
    ]
    if scale >= JUDGED:
        violations += [f"{p}: p99 is {r:.1f} x" for p, r in ratios.items() if r > MOST]
    told = ", ".join(f"{pace} {ratio:.2f} x" for pace, ratio in ratios.items())
    extra = ", ".join(f"{pace} {share:.1%}" for pace, share in test.extra.items())
    return Outcome(
        f"GET p99 {told} of {healthy_s * 1000:.1f} ms; extra requests {extra}; "
        f"{test.waited['GETs']} GETs and {test.waited['ranges']} ranges waited for a slow node",
        violations,
    )


@dataclass
class _Test:
    p99_s: dict[Pace, float]
    extra: dict[Pace, float]
    violations: list[str]
    waited: Counter[str]


class _Slow(Direct):
    """A node whose reads the test slows down and counts."""

    def __init__(self, store: VolumeStore, pace: Pace, count: "_Count") -> None:
        super().__init__(store)
        self._read, self._pace, self._count = store.read, pace, count
        self.read = self._slow_read

    async def _slow_read(
        self, addresses: Sequence[ShardAddress], into: Sequence[memoryview] | None = None
    ) -> list[ShardRecord | ShardMissing]:
        self._count.asked += 1
        await self._dawdle(into)
        if self._pace is not Pace.HEALTHY:
            self._count.waited += 1  # had it been hedged, this would have been cancelled
        if self._pace is Pace.STOPPED:
            raise NodeUnreachable("the lane is silent")
        return await self._read(addresses, into)

    async def _dawdle(self, into: Sequence[memoryview] | None) -> None:
        if self._pace is Pace.STOPPED:
            await asyncio.sleep(SILENT_S)
        if self._pace is Pace.DELAYED:
            await asyncio.sleep(DELAY_S)
        elif self._pace is Pace.DRIPPING:
            await asyncio.sleep(sum(map(len, into or ())) / DRIP_BYTES_PER_S)


@dataclass
class _Count:
    asked: int = 0
    waited: int = 0


async def _run(store: Store, gets: int, chance: random.Random) -> _Test:
    await store.start()
    front, test = store.fronts[0], _Test({}, {}, [], Counter())
    try:
        contents = [chance.randbytes(SIZE_BYTES) for _ in range(CONTENTS)]
        for data in contents:
            await front.put(data)
        reads = _Reads(contents, gets, chance)
        for pace in Pace:
            await _measure(front, pace, reads, test)
        for pace in Pace:
            await _measure_ranges(front, pace, reads, test)
    finally:
        await store.close()
    return test


@dataclass
class _Reads:
    """So many GETs of these contents, while nodes are slow that `chance` takes."""

    contents: list[bytes]
    gets: int
    chance: random.Random


async def _measure(front: Front, pace: Pace, reads: _Reads, test: _Test) -> None:
    """All runs of one kind, each with another node that is slow."""
    count, p99s = _Count(), []
    for _ in range(RUNS):
        with _one_is_slow(front, pace, count, reads.chance):
            p99s.append(await _p99_s(front, reads.contents, reads.gets))
    needed = K * reads.gets * RUNS
    test.p99_s[pace] = statistics.median(p99s)
    test.extra[pace] = (count.asked - needed) / needed
    if count.asked - needed > MOST_EXTRA * needed + MOST_SAVED:
        test.violations.append(f"{pace}: {count.asked} requests, {needed} would do")
    test.waited["GETs"] += count.waited


async def _measure_ranges(front: Front, pace: Pace, reads: _Reads, test: _Test) -> None:
    """How long one takes depends on whether it must go around; that none waits is what counts."""
    front.reads, count = ReadPath(front.services), _Count()  # it knows nothing of earlier runs
    with _one_is_slow(front, pace, count, reads.chance):
        await _p99_s(front, reads.contents, reads.gets, RANGE_BYTES)
    if count.asked > MOST_RANGE_REQUESTS * reads.gets:
        test.violations.append(f"{pace}: {count.asked} requests for {reads.gets} ranges")
    test.waited["ranges"] += count.waited


@contextmanager
def _one_is_slow(front: Front, pace: Pace, count: _Count, chance: random.Random) -> Iterator[None]:
    slow = chance.choice(NODES)

    def direct(number: int, store: VolumeStore) -> Direct:
        return _Slow(store, pace if number == slow else Pace.HEALTHY, count)

    with patch.object(front.cluster, "direct", direct):
        yield


async def _p99_s(
    front: Front, contents: list[bytes], gets: int, length_bytes: int = SIZE_BYTES
) -> float:
    took_s: list[float] = []
    numbers = iter(range(gets))

    async def read() -> None:
        for number in numbers:
            data = contents[number % len(contents)]
            start = number * 997 % (SIZE_BYTES - length_bytes + 1)
            part, began_s = slice(start, start + length_bytes), time.monotonic()
            assert await front.get(ContentId(blake3_digest(data)), start, part.stop) == data[part]
            took_s.append(time.monotonic() - began_s)

    await asyncio.gather(*(read() for _ in range(AT_ONCE)))
    return sorted(took_s)[int(0.99 * len(took_s))]

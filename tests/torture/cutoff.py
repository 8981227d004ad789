"""Answers go wrong behind their headers, in every way and anywhere: the connection is cut, what was
sent until then is right, and nothing looks like an end."""

import asyncio
import random
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import uvloop

from common.ids import ShardAddress
from common.shards import ShardMissing, ShardRecord
from common.units import KIB
from coordinator.metadata import StoredSegment
from tests.blobs import put
from tests.torture.outcome import Outcome, quiet, scaled, scratch
from tests.whole_path import Bed, MemoryNode, memory_bed

ROW = 17
PROMISE = "too many bad shards behind the headers: cut off, never a clean end"
ANSWERS = 10_000

SEGMENT = 96 * KIB
SEGMENTS = 12
AHEAD = 6  # segments, more than are asked for at once
SETTINGS = {"segment_bytes": SEGMENT, "cache_bytes": 0, "cache_segment_bytes": 0}
REQUESTS: dict[str, tuple[str, Sequence[str]]] = {
    "HTTP/1.1": ("HTTP/1.1", ()),
    "HTTP/1.0": ("HTTP/1.0", ()),
    "closing": ("HTTP/1.1", ("Connection: close",)),
    "chunks wanted": ("HTTP/1.1", ("TE: chunked, trailers",)),
}


@dataclass
class Tally:
    cut: dict[str, int] = field(default_factory=dict)
    refused: int = 0
    violations: list[str] = field(default_factory=list)

    def figure(self) -> str:
        ways = ", ".join(f"{count:,} {name}" for name, count in sorted(self.cut.items()))
        total = sum(self.cut.values())
        return (
            f"{total:,} answers cut off ({ways}), {self.refused:,} refused before the headers, "
            f"{len(self.violations)} with a clean end or wrong bytes"
        )


def main(scale: float, seed: int) -> Outcome:
    tally = Tally()
    with scratch("cutoff", in_memory=True) as directory, quiet():
        uvloop.run(_run(directory, scaled(ANSWERS, scale), random.Random(seed), tally))
    return Outcome(tally.figure(), tally.violations)


async def _run(directory: Path, wanted: int, rng: random.Random, tally: Tally) -> None:
    async with memory_bed(directory, jobs=False, **SETTINGS) as bed:
        data = rng.randbytes(SEGMENTS * SEGMENT - rng.randrange(SEGMENT))
        id_ = await put(bed.http, data)
        segments = await bed.segments(id_)
        whole = {number: (node, dict(node.records)) for number, node in bed.cluster.memory.items()}
        for number in range(wanted):
            await _one(bed, id_, data, segments, rng, f"answer {number}", tally)
            bed.away()
            for node, (store, records) in whole.items():
                bed.cluster.memory[node] = store
                store.records = dict(records)


async def _one(
    bed: Bed, id_: str, data: bytes, segments: Sequence[StoredSegment], rng: random.Random,
    name: str, tally: Tally,
) -> None:  # fmt: skip
    kind, way = rng.choice(list(REQUESTS)), rng.choice(list(WAYS))
    start = rng.choice((0, 0, rng.randrange(len(data) // 3)))
    first = start // SEGMENT + 1
    WAYS[way](bed, segments, rng.randrange(first, SEGMENTS), rng)
    version, headers = REQUESTS[kind]
    ranged = [f"Range: bytes={start}-"] if start else []
    head, body = await ask(bed, lines(id_, version, *headers, *ranged))
    status, wanted = int(head.split(b" ")[1]), data[start:]
    told = f"{name}, {way}, {kind} from {start}: {len(body)} of {len(wanted)} bytes"
    if status == 503:
        tally.refused += 1
        return
    tally.cut[way] = tally.cut.get(way, 0) + 1
    if status != (206 if start else 200):
        tally.violations.append(f"{told}, status {status}")
    if b"transfer-encoding" in head.lower():
        tally.violations.append(f"{told}, chunked")
    if f"content-length: {len(wanted)}".encode() not in head.lower():
        tally.violations.append(f"{told}, another length: {head!r}")
    if len(body) >= len(wanted):
        tally.violations.append(f"{told}, a clean end")
    if not wanted.startswith(body):
        tally.violations.append(f"{told}, wrong bytes")


async def ask(bed: Bed, head: str) -> tuple[bytes, bytes]:
    """Sends the request and reads until the server ends the connection, or has sent all that it
    said: head and body."""
    host, port = bed.url.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(head.encode())
    got = b""
    try:
        async with asyncio.timeout(20):
            while piece := await reader.read(4096):
                got += piece
                said = re.search(rb"(?i)content-length: (\d+).*?\r\n\r\n", got, re.DOTALL)
                if said and len(got) >= said.end() + int(said[1]):
                    break
    except ConnectionResetError:
        pass
    finally:
        writer.close()
    answer_head, _, body = got.partition(b"\r\n\r\n")
    return answer_head, body


def lines(id_: str, version: str, *headers: str) -> str:
    return "\r\n".join([f"GET /v1/blobs/{id_} {version}", "Host: x", *headers, "", ""])


class Told(MemoryNode):
    """Calls `back` when it is asked for a shard of `segment`."""

    def __init__(self, node: MemoryNode, back: Callable[[], None], segment: StoredSegment) -> None:
        super().__init__()
        self.records, self._back, self._segment = node.records, back, segment

    async def read(
        self, addresses: Sequence[ShardAddress], into: Sequence[memoryview] | None = None
    ) -> list[ShardRecord | ShardMissing]:
        if addresses[0].segment == self._segment.id:
            self._back()
        return await super().read(addresses, into)


def tell(bed: Bed, segment: StoredSegment, back: Callable[[], None]) -> None:
    """All nodes call back."""
    for number, node in bed.cluster.memory.items():
        bed.cluster.memory[number] = Told(node, back, segment)


def _gone(bed: Bed, segments: Sequence[StoredSegment], at: int, rng: random.Random) -> None:
    for index in rng.sample(range(9), rng.randint(4, 9)):
        bed.lose(segments[at], index)


def _rotten(bed: Bed, segments: Sequence[StoredSegment], at: int, rng: random.Random) -> None:
    for index in rng.sample(range(9), rng.randint(4, 9)):
        bed.rot(segments[at], index)


def _away(bed: Bed, segments: Sequence[StoredSegment], at: int, rng: random.Random) -> None:
    """Early enough: what has been asked of them by then, they still answer."""
    nodes = rng.sample(range(1, 10), rng.randint(4, 9))
    tell(bed, segments[min(at, SEGMENTS - AHEAD)], lambda: bed.away(*nodes))


def _defect(bed: Bed, segments: Sequence[StoredSegment], at: int, rng: random.Random) -> None:
    def fail() -> None:
        raise RuntimeError("a defect")

    tell(bed, segments[at], fail)


Way = Callable[[Bed, Sequence[StoredSegment], int, random.Random], None]
WAYS: dict[str, Way] = {"gone": _gone, "rotten": _rotten, "away": _away, "by a defect": _defect}

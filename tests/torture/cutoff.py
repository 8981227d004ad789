"""Shards beyond what can be missed go bad while a content is being sent: the connection is cut,
never ended as if all had been said, and what has come is the content's beginning."""

import asyncio
import random
from collections.abc import Mapping
from pathlib import Path

from common.units import KIB
from coordinator.metadata import StoredSegment
from tests.blobs import content, put
from tests.torture.outcome import Outcome, quiet, scaled, scratch
from tests.whole_path import Bed, memory_bed

ROW = 17
PROMISE = "too many bad shards behind the headers cut the connection"

ANSWERS = 1_000
SEGMENT_BYTES, SEGMENTS = 96 * KIB, 12
DATA = content(SEGMENTS * SEGMENT_BYTES - 77, "cut off")
FIRST = SEGMENTS // 2  # far enough behind what is fetched ahead
ANSWER_S = 20.0
REQUESTS: Mapping[str, tuple[str, tuple[str, ...], int]] = {  # version, headers, first byte
    "HTTP/1.1": ("HTTP/1.1", (), 0),
    "HTTP/1.0": ("HTTP/1.0", (), 0),
    "closing": ("HTTP/1.1", ("Connection: close",), 0),
    "chunks wanted": ("HTTP/1.1", ("TE: chunked, trailers",), 0),
    "a range": ("HTTP/1.1", ("Range: bytes=1000-",), 1000),
}


def main(scale: float, seed: int) -> Outcome:
    answers = scaled(ANSWERS, scale)
    with scratch("cutoff", in_memory=True) as directory, quiet():
        violations = asyncio.run(_answers(directory, answers, random.Random(seed)))
    return Outcome(f"{answers} answers with too many bad shards, all cut off", violations)


async def _answers(directory: Path, answers: int, rng: random.Random) -> list[str]:
    settings = {"segment_bytes": SEGMENT_BYTES, "cache_bytes": 0, "cache_segment_bytes": 0}
    violations = []
    async with memory_bed(directory, jobs=False, **settings) as bed:
        id_ = await put(bed.http, DATA)
        segments = await bed.segments(id_)
        for number in range(answers):
            segment = segments[rng.randrange(FIRST, SEGMENTS)]
            name = rng.choice(list(REQUESTS))
            fault = await _one(bed, id_, segment, name, rng)
            violations += [f"answer {number}, {name}: {fault}"] if fault else []
    return violations


async def _one(bed: Bed, id_: str, segment: StoredSegment, name: str, rng: random.Random) -> str:
    """What is wrong with the answer while some shards of the segment are bad, which are good again
    then."""
    version, headers, start = REQUESTS[name]
    harmed = {i: bed.held(segment, i) for i in rng.sample(range(segment.n), rng.randint(4, 9))}
    for index in harmed:
        rng.choice([bed.rot, bed.lose])(segment, index)
    head, body = await ask(bed, lines(id_, version, *headers))
    for index, record in harmed.items():
        bed.put_back(segment, index, record)
    if f"content-length: {len(DATA) - start}".encode() not in head.lower():
        return f"not the answer of a content: {head[:200]!r}"
    if len(body) >= len(DATA) - start:
        return "ended as if it were whole"
    return "" if DATA[start:].startswith(body) else "wrong bytes"


def lines(id_: str, version: str, *headers: str) -> str:
    """The request."""
    return "\r\n".join([f"GET /v1/blobs/{id_} {version}", "Host: x", *headers, "", ""])


async def ask(bed: Bed, head: str) -> tuple[bytes, bytes]:
    """Sends the request and reads until the server ends the connection: head and body."""
    host, port = bed.url.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(head.encode())
    got = b""
    try:
        async with asyncio.timeout(ANSWER_S):
            while piece := await reader.read(4096):
                got += piece
    except ConnectionResetError:
        pass
    finally:
        writer.close()
    answer_head, _, body = got.partition(b"\r\n\r\n")
    return answer_head, body

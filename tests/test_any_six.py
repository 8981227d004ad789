"""Any six of the nine nodes suffice: all 84 subsets, sizes and ranges of all kinds, over HTTP."""

import asyncio
import itertools
from pathlib import Path

import aiohttp
import pytest

from common.units import KIB
from tests.blobs import content, put
from tests.whole_path import Bed, memory_bed

K, N = 6, 9
SEGMENT = 96 * KIB  # above 64 KiB, from where on threads verify and answers are streamed
SIZES = (0, 1, K - 1, K, K + 1, 4 * KIB, SEGMENT - 1, SEGMENT, SEGMENT + 1, 3 * SEGMENT + 12_345)
FAULTS = ("away", "gone", "rotten")
GONE = list(itertools.combinations(range(1, N + 1), N - K))


def ranges_of(size: int, turn: int) -> list[tuple[int, int]]:
    """Some [start, end) of that many bytes: the ends, a shard's bounds, a segment's, and pieces
    that move with `turn`."""
    shard = -(-min(size, SEGMENT) // K)
    at = turn * 7919 % size
    wanted = {
        (0, 1), (size - 1, size), (at, size), (at, at + 1), (shard - 1, shard + 1),
        (SEGMENT - 1, SEGMENT + 1), (at, at + shard), (at // 2, at + SEGMENT),
    }  # fmt: skip
    cut = [(start, min(end, size)) for start, end in sorted(wanted)]
    return [(start, end) for start, end in cut if start < end]


async def check(http: aiohttp.ClientSession, id_: str, data: bytes, turn: int) -> int:
    """All of it, and ranges. How many answers were right: all."""
    async with http.get(f"/v1/blobs/{id_}") as answer:
        assert answer.status == 200
        assert await answer.read() == data
    ranges = ranges_of(len(data), turn) if data else []
    for start, end in ranges:
        asked = {"Range": f"bytes={start}-{end - 1}"}
        async with http.get(f"/v1/blobs/{id_}", headers=asked) as answer:
            assert answer.status == 206
            assert answer.headers["Content-Range"] == f"bytes {start}-{end - 1}/{len(data)}"
            assert await answer.read() == data[start:end], (start, end)
    return 1 + len(ranges)


def break_nodes(bed: Bed, gone: tuple[int, ...], turn: int) -> None:
    """Exactly these, each in another way."""
    faults = {node: FAULTS[(turn + at) % len(FAULTS)] for at, node in enumerate(gone)}
    bed.away(*(node for node in gone if faults[node] == "away"))
    for number, node in bed.cluster.memory.items():
        node.fault = faults.get(number, "")


@pytest.mark.parametrize("size", SIZES)
async def test_any_six_of_nine_nodes_give_everything_back(tmp_path: Path, size: int) -> None:
    data, right = content(size, "any six"), 0
    settings = {"segment_bytes": SEGMENT, "cache_bytes": 0, "cache_segment_bytes": 0}
    async with memory_bed(tmp_path, jobs=False, **settings) as bed:
        id_ = await put(bed.http, data)
        for turn, gone in enumerate(GONE):
            break_nodes(bed, gone, turn)
            right += await check(bed.http, id_, data, turn)
            await asyncio.sleep(0)
    assert len(GONE) == 84
    assert right >= 84 * (1 if size == 0 else 2)


async def test_with_a_fourth_node_gone_there_is_a_clear_error(tmp_path: Path) -> None:
    """Or the ranges test above would prove nothing."""
    data = content(4 * KIB, "four gone")
    async with memory_bed(tmp_path, jobs=False, cache_bytes=0, cache_segment_bytes=0) as bed:
        id_ = await put(bed.http, data)
        for turn, gone in enumerate(itertools.combinations(range(1, N + 1), N - K + 1)):
            break_nodes(bed, gone, turn)
            async with bed.http.get(f"/v1/blobs/{id_}") as answer:
                said = await answer.json()
            assert (answer.status, said["code"]) == (503, "unreadable")
            assert "4 of 9 shards" in said["message"]

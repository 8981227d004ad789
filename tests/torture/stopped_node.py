"""Real processes, one node of which is stopped (SIGSTOP) again and again: how long GETs take then,
over its lanes too, beside how long they take when all nodes answer."""

import asyncio
import random
import signal
import statistics
import time
from collections.abc import Sequence
from pathlib import Path

import aiohttp

from common.units import KIB, MIB
from tests.torture.journal import Content
from tests.torture.servers import Servers, node_names, running

NODES, CONTENTS, AT_ONCE = 9, 24, 4
SIZES = {"small": 20 * KIB, "large": MIB}
OPTIONS = ("--cache-bytes", "0")


async def ratios(directory: Path, gets: int, runs: int, chance: random.Random) -> dict[str, float]:
    """For each size the p99 with a stopped node, of that without; the median of all runs counts."""
    async with (
        running(directory, NODES, OPTIONS) as servers,
        aiohttp.ClientSession(servers.url) as http,
    ):
        return {
            name: await _ratio(servers, http, await _stored(http, size), gets, runs, chance)
            for name, size in SIZES.items()
        }


async def _stored(http: aiohttp.ClientSession, size_bytes: int) -> list[Content]:
    contents = [Content(number, size_bytes) for number in range(CONTENTS)]
    for content in contents:
        async with http.put("/v1/blobs", data=content.data) as answer:
            assert answer.status == 201, await answer.text()
    return contents


async def _ratio(
    servers: Servers,
    http: aiohttp.ClientSession,
    contents: Sequence[Content],
    gets: int,
    runs: int,
    chance: random.Random,
) -> float:
    healthy_s, stopped_s = list[float](), list[float]()
    for _ in range(runs):
        healthy_s.append(await _p99_s(http, contents, gets))
        slow = chance.choice(node_names(NODES))
        servers.signal(slow, signal.SIGSTOP)
        try:
            stopped_s.append(await _p99_s(http, contents, gets))
        finally:
            servers.signal(slow, signal.SIGCONT)
        await servers.until_active(node_names(NODES))
    return statistics.median(stopped_s) / statistics.median(healthy_s)


async def _p99_s(http: aiohttp.ClientSession, contents: Sequence[Content], gets: int) -> float:
    """Of so many GETs, each with the right bytes."""
    known = [(content.id, content.data) for content in contents]
    numbers, took_s = iter(range(gets)), list[float]()

    async def read() -> None:
        for number in numbers:
            id_, data = known[number % len(known)]
            began_s = time.monotonic()
            async with http.get(f"/v1/blobs/{id_}") as answer:
                assert await answer.read() == data, answer.status
            took_s.append(time.monotonic() - began_s)

    await asyncio.gather(*(read() for _ in range(AT_ONCE)))
    return sorted(took_s)[int(0.99 * len(took_s))]

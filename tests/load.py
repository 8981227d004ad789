"""A client that puts load on a cluster and remembers what was acknowledged."""

import asyncio
import io
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import aiohttp
from blake3 import blake3

from common.units import KIB, MIB
from tests.local_cluster import LocalCluster

ANSWER_S = 30.0  # no request may take longer, whatever happens: a hang is a failure
CACHED_BYTES = 256 * KIB  # the coordinator's default
SIZES = (1 * KIB, 20 * KIB, 300 * KIB, 2 * MIB, 14 * MIB)


@dataclass
class Client:
    """Puts reproducible contents and remembers which were acknowledged."""

    http: aiohttp.ClientSession
    _seed: int
    acknowledged: dict[str, tuple[int, int]] = field(default_factory=dict)  # id: seed, size
    refused: list[str] = field(default_factory=list)

    async def put_one(self, size: int | None = None) -> str:
        """The durability that the answer states; empty if it was refused."""
        self._seed += 1
        seed = self._seed
        size = SIZES[seed % len(SIZES)] if size is None else size
        data = random.Random(seed).randbytes(size)
        async with self.http.put("/v1/blobs", data=io.BytesIO(data)) as answer:
            said = await answer.json()
            if answer.status not in (200, 201):
                self.refused.append(f"{answer.status} {said['message']}")
                return ""
            assert said["id"] == blake3(data).hexdigest()
            self.acknowledged[said["id"]] = (seed, size)
            durability: str = said["durability"]
            return durability

    async def put_until_taken(self, data: bytes) -> None:
        """What an upload relies on may be found to be lost while it runs: then it is told to try
        again, and known from then on."""
        refused = []
        for _ in range(10):
            async with self.http.put("/v1/blobs", data=io.BytesIO(data)) as answer:
                if answer.status in (200, 201):
                    return
                refused.append(await answer.json())
            assert refused[-1]["code"] == "segment_gone", refused
        raise AssertionError(refused)

    async def put_many(self, count: int, at_once: int = 8) -> None:
        each = asyncio.Semaphore(at_once)

        async def one() -> None:
            async with each:
                await self.put_one()

        await asyncio.gather(*(one() for _ in range(count)))

    @asynccontextmanager
    async def load(self, writers: int = 4) -> AsyncIterator[None]:
        """Puts go on for as long as the block runs."""
        stop = asyncio.Event()

        async def write() -> None:
            while not stop.is_set():
                await self.put_one()

        async with asyncio.TaskGroup() as group:
            for _ in range(writers):
                group.create_task(write())
            yield
            stop.set()

    async def check_all(self) -> None:
        """Every acknowledged content is there and right."""
        for id_, (seed, size) in self.acknowledged.items():
            async with self.http.get(f"/v1/blobs/{id_}") as answer:
                assert answer.status == 200, (id_, size, await answer.text())
                data = await answer.read()
            assert data == random.Random(seed).randbytes(size), id_

    async def expect_unreadable(self, missing: int) -> None:
        """Every content too large for the cache is a clear 503: not a byte of it is sent."""
        for id_, (_, size) in self.acknowledged.items():
            if size <= CACHED_BYTES:
                continue
            async with self.http.get(f"/v1/blobs/{id_}") as answer:
                said: dict[str, Any] = await answer.json()
            assert (answer.status, said["code"]) == (503, "unreadable")
            assert said["message"].startswith(f"{missing} of 9 shards"), said


@asynccontextmanager
async def client_of(cluster: LocalCluster, first_seed: int = 0) -> AsyncIterator[Client]:
    timeout = aiohttp.ClientTimeout(total=ANSWER_S)
    async with aiohttp.ClientSession(cluster.url, timeout=timeout) as http:
        yield Client(http, first_seed)


def names(*numbers: int) -> list[str]:
    return [f"node-{number}" for number in numbers]


async def in_thread(work: Any, *arguments: Any) -> None:
    """Cluster commands block; the load must go on meanwhile."""
    await asyncio.to_thread(work, *arguments)

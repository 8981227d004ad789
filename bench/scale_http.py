"""What a user sees of a full database: PUT and GET over HTTP, on two clusters side by side."""

import os
from functools import partial
from pathlib import Path

import aiohttp

from bench.cluster import local_cluster
from bench.measure import Costs, compared, cost_us
from bench.rows import Row
from coordinator.config import ALL_SHARDS

SIZE_BYTES = 4096
CLIENTS = (1, 64)


class Api:
    def __init__(self, http: aiohttp.ClientSession, url: str) -> None:
        self._http, self._blobs = http, f"{url}/v1/blobs"
        self.stored: list[str] = []

    async def put(self, data: bytes) -> None:
        async with self._http.put(self._blobs, data=data) as response:
            assert response.status == 201
            self.stored.append((await response.json())["id"])

    async def get(self, id_: str) -> None:
        async with self._http.get(f"{self._blobs}/{id_}") as response:
            assert response.status == 200
            assert len(await response.read()) == SIZE_BYTES


async def measure(api: Api, requests: int) -> Costs:
    """Microseconds per request. Each content is read once: the cache has none of them."""
    took = Costs()
    for clients in CLIENTS:
        count = requests if clients > 1 else -(-requests // 8)
        api.stored.clear()
        puts = [partial(api.put, os.urandom(SIZE_BYTES)) for _ in range(count)]
        took[f"PUT 4 KiB, clients: {clients}"] = await cost_us(clients, puts)
        gets = [partial(api.get, id_) for id_ in api.stored]
        took[f"GET 4 KiB, clients: {clients}"] = await cost_us(clients, gets)
    return took


async def measure_http(empty: Path, full: Path, rounds: int, requests: int) -> list[Row]:
    """`full` is the directory of a cluster whose coordinator has a database already."""
    connections = aiohttp.TCPConnector(limit=max(CLIENTS))
    with (
        local_cluster(empty, ALL_SHARDS) as at_empty,
        local_cluster(full, ALL_SHARDS) as at_full,
    ):
        async with aiohttp.ClientSession(connector=connections) as http:
            apis = [Api(http, url) for url in (at_empty.url, at_full.url)]
            runs = [[await measure(api, requests) for api in apis] for _ in range(rounds)]
    return compared("HTTP", [run[0] for run in runs], [run[1] for run in runs])

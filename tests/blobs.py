"""Contents of the blobs API, and plain HTTP for what a well-behaved client would not send."""

import asyncio
import hashlib
import io

import aiohttp
from blake3 import blake3

from coordinator.config import SEGMENT_BYTES
from tests.local_cluster import LocalCluster

SEGMENT = SEGMENT_BYTES
UNKNOWN = "0" * 64


def content(size: int, seed: str) -> bytes:
    """Reproducible bytes that no other test stores."""
    return hashlib.shake_128(f"{seed}/{size}".encode()).digest(size)


def id_of(data: bytes) -> str:
    return blake3(data).hexdigest()


async def put(http: aiohttp.ClientSession, data: bytes) -> str:
    async with http.put("/v1/blobs", data=io.BytesIO(data)) as answer:
        assert answer.status in (200, 201), await answer.text()
        said = await answer.json()
    assert said["id"] == id_of(data)
    id_: str = said["id"]
    return id_


async def get(http: aiohttp.ClientSession, id_: str) -> bytes:
    async with http.get(f"/v1/blobs/{id_}") as answer:
        assert answer.status == 200
        return await answer.read()


async def shards_stored(cluster: LocalCluster) -> int:
    """What the nodes themselves report, once they have all reported anew."""
    nodes = await asyncio.to_thread(cluster.fresh_nodes)
    return sum(node["shards"] for node in nodes.values())


async def raw(
    cluster: LocalCluster, request: bytes
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    host, port = cluster.url.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(request)
    await writer.drain()
    return reader, writer

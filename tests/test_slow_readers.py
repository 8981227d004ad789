"""Clients that take a large content slowly, or not at all, keep nobody out."""

import asyncio

import aiohttp

from tests.blobs import SEGMENT, content, get, put, raw
from tests.local_cluster import LocalCluster

SLOW = 40  # of whole segments there is memory for ten


async def test_readers_that_take_nothing_keep_nobody_out(
    cluster: LocalCluster, http: aiohttp.ClientSession
) -> None:
    data = content(5 * SEGMENT, "slowly")
    id_ = await put(http, data)
    head = f"GET /v1/blobs/{id_} HTTP/1.1\r\nHost: x\r\n\r\n".encode()
    slow = await asyncio.gather(*(raw(cluster, head) for _ in range(SLOW)))
    begun = await asyncio.gather(*(reader.readuntil(b"\r\n\r\n") for reader, _ in slow))
    assert all(answer.startswith(b"HTTP/1.1 200") for answer in begun)
    for number in range(3):
        await put(http, content(2 * SEGMENT, f"beside slow ones {number}"))
        assert await get(http, id_) == data
    for _, writer in slow:
        writer.transport.abort()

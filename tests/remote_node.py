"""A coordinator's view of a node: lanes and HTTP over real sockets."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import aiohttp

from common.wire import LaneKind
from coordinator.lanes import LaneLimits
from coordinator.links import Link
from coordinator.remote_store import RemoteStore
from tests.stores import SECRET, ServedNode


@asynccontextmanager
async def remote_to(node: ServedNode) -> AsyncIterator[RemoteStore]:
    """Connected until the block ends."""
    connected, identity = asyncio.Event(), node.directory.identity
    async with aiohttp.ClientSession() as http:
        link = Link(
            identity.name, ("127.0.0.1", node.data_port), identity.cluster_bytes,
            identity.node_bytes, SECRET, dict.fromkeys(LaneKind, LaneLimits(request_s=20.0)),
            lambda up: connected.set() if up else None,
        )  # fmt: skip
        try:
            await connected.wait()
            yield RemoteStore(link, node.http_url, SECRET, http)
        finally:
            await link.close()

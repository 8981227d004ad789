"""The links that a coordinator process keeps to its nodes."""

import asyncio
from collections.abc import AsyncIterator

import aiohttp
import pytest

from common.errors import NodeUnreachable
from coordinator.cluster import Cluster
from coordinator.config import Config
from coordinator.metadata import Metadata, Wish
from tests.lane_peer import SECRET
from tests.metadata_parts import Clock
from tests.reports import report_of


@pytest.fixture
async def cluster(metadata: Metadata, clock: Clock) -> AsyncIterator[Cluster]:
    config = Config(data="unused", secret_file="unused")
    async with aiohttp.ClientSession() as http:
        cluster = Cluster(config, SECRET, metadata, http, clock)
        yield cluster
        await cluster.close()


def links() -> list[str]:
    names = (task.get_name() for task in asyncio.all_tasks() if not task.done())
    return sorted(name for name in names if name.startswith("link "))


async def test_there_is_no_link_to_a_node_that_was_removed(
    cluster: Cluster, metadata: Metadata
) -> None:
    members = cluster.membership
    for number in (1, 2):
        await members.report(report_of(number), bytes([number]) * 16)
    assert links() == ["link node-1", "link node-2"]
    await metadata.set_wish(2, Wish.REMOVED)
    await members.look()
    with pytest.raises(NodeUnreachable, match="not been heard of"):
        cluster.store(2)
    await asyncio.gather(*cluster._closing)
    assert links() == ["link node-1"]
    await cluster.close()
    assert links() == []


async def test_nor_to_one_that_was_removed_before(
    cluster: Cluster, metadata: Metadata, clock: Clock
) -> None:
    await cluster.membership.report(report_of(1), b"1" * 16)
    await metadata.set_wish(1, Wish.REMOVED)
    later = Cluster(
        Config(data="unused", secret_file="unused"), SECRET, metadata, cluster._http, clock
    )
    await later.membership.load()
    with pytest.raises(NodeUnreachable, match="not been heard of"):
        later.store(1)

"""Fixtures that several test files use."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import aiohttp
import pytest
import uvloop

from tests.local_cluster import LocalCluster, local_cluster


def pytest_asyncio_loop_factories() -> dict[str, Callable[[], asyncio.AbstractEventLoop]]:
    """The servers run on uvloop, whose transports differ from asyncio's: so do the tests."""
    return {"uvloop": uvloop.new_event_loop}


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalCluster]:
    """Nine nodes for all tests that break nothing."""
    directory: Path = tmp_path_factory.mktemp("cluster")
    with local_cluster(directory) as running:
        yield running


@pytest.fixture
async def http(cluster: LocalCluster) -> AsyncIterator[aiohttp.ClientSession]:
    """A client of that cluster."""
    async with aiohttp.ClientSession(cluster.url) as session:
        yield session

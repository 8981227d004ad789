"""Fixtures that several test files use."""

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import aiohttp
import pytest

from tests.local_cluster import LocalCluster, local_cluster


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

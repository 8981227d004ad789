"""Fixtures that several test files use."""

import asyncio
from collections.abc import AsyncIterator, Callable, Generator, Iterator
from pathlib import Path

import aiohttp
import pytest
import uvloop

from common.units import MIB
from common.wire import LaneKind
from coordinator import sweep
from coordinator.metadata import Metadata, open_metadata
from coordinator.read_path import ReadPath
from coordinator.write_path import WritePath
from shardd.store import StoreLimits
from tests.lane_client import LIMITS, Client, open_lane
from tests.local_cluster import LocalCluster, local_cluster
from tests.memory_cluster import MemoryCluster, Sweeper, paths
from tests.metadata_parts import GRACE_S, Clock
from tests.reports import incoming
from tests.stores import ServedNode, served_node
from tests.torture.one_process import Store


def pytest_asyncio_loop_factories() -> dict[str, Callable[[], asyncio.AbstractEventLoop]]:
    """The servers run on uvloop, whose transports differ from asyncio's: so do the tests."""
    return {"uvloop": uvloop.new_event_loop}


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """A failure on the cluster below comes with what its servers said last."""
    report = yield
    cluster = getattr(item, "funcargs", {}).get("cluster")
    if report.failed and isinstance(cluster, LocalCluster):
        report.sections.append(("ends of the servers' logs", cluster.log_ends()))
    return report


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


@pytest.fixture
async def node(tmp_path: Path) -> AsyncIterator[ServedNode]:
    """Of little memory, to itself, with its data port open."""
    limits = StoreLimits(write_buffer_bytes=MIB, read_buffer_bytes=MIB)
    async with served_node(tmp_path, LIMITS, limits) as served:
        yield served


@pytest.fixture
async def writer(node: ServedNode) -> AsyncIterator[Client]:
    """A write lane to it."""
    client = await open_lane(node, LaneKind.WRITE)
    yield client
    client.transport.close()


@pytest.fixture
async def reader(node: ServedNode) -> AsyncIterator[Client]:
    """A read lane to it."""
    client = await open_lane(node, LaneKind.READ)
    yield client
    client.transport.close()


@pytest.fixture
def clock() -> Clock:
    """The database's, for `metadata` and `both`."""
    return Clock()


@pytest.fixture
async def metadata(tmp_path: Path, clock: Clock) -> AsyncIterator[Metadata]:
    """A new database."""
    opened = open_metadata(tmp_path, "", GRACE_S, clock)
    await opened.start()
    yield opened
    await opened.close()


@pytest.fixture
async def both(tmp_path: Path, clock: Clock) -> AsyncIterator[tuple[Metadata, Metadata]]:
    """A database that two processes use."""
    opened = [open_metadata(tmp_path, "", GRACE_S, clock) for _ in range(2)]
    for each in opened:
        await each.start()
    yield opened[0], opened[1]
    for each in opened:
        await each.close()


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Store]:
    """Nine nodes and two coordinators, in this process."""
    store = Store(tmp_path)
    await store.start()
    yield store
    await store.close()


@pytest.fixture
async def nodes(metadata: Metadata, monkeypatch: pytest.MonkeyPatch) -> MemoryCluster:
    """Dictionaries that have joined; the sweep does not rest between them."""
    monkeypatch.setattr(sweep, "PAGE_REST_S", 0)
    cluster = MemoryCluster()
    for number in cluster.stores:
        await metadata.save_report(incoming(number))
    return cluster


@pytest.fixture
def ends(metadata: Metadata, nodes: MemoryCluster) -> Iterator[tuple[WritePath, ReadPath]]:
    """The write path and the read path over them."""
    with paths(metadata, nodes) as both:
        yield both


@pytest.fixture
def sweeper(metadata: Metadata, nodes: MemoryCluster, clock: Clock) -> Sweeper:
    """The sweep over them."""
    return Sweeper(metadata, nodes, clock)

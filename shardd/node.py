"""Puts a node together and takes it apart again, in the right order."""

import asyncio
import logging
import math
import secrets
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import asdict, dataclass

import aiohttp

from common.auth import ClusterSecret
from common.membership import MAX_FAILURE, NodeReport
from shardd.config import Config
from shardd.heartbeat import Heartbeat
from shardd.http import NodeHttp
from shardd.identity import DataDirectory
from shardd.lanes import LaneServer
from shardd.store import VolumeStore

log = logging.getLogger(__name__)

MAX_INTERVAL_S = 1 << 40  # a setting may say never


@dataclass(frozen=True, slots=True)
class Node:
    """A running node; it has not joined yet."""

    config: Config
    directory: DataDirectory
    store: VolumeStore
    http: NodeHttp
    heartbeat: Heartbeat
    http_url: str
    data_address: tuple[str, int]

    async def join(self) -> None:
        """Returns as a member. Raises as Heartbeat.join."""
        await self.heartbeat.join()
        self.http.joined = True
        log.info("joined cluster %s", self.directory.identity.cluster_id)


@asynccontextmanager
async def running(config: Config, secret: ClusterSecret) -> AsyncIterator[Node]:
    """Probes answer first; then the volumes are read; then lanes are taken."""
    async with AsyncExitStack() as stack:
        directory = DataDirectory(config.data, config.name)
        stack.callback(directory.close)
        http = NodeHttp(directory, secret)
        runner, http_port = await http.start(config.host, config.port)
        stack.push_async_callback(runner.cleanup)
        store = await VolumeStore.open(directory, config.store_limits)
        stack.push_async_callback(store.close)
        http.store = store
        store.upkeep.start()
        lanes = LaneServer(store, directory, secret, config.lane_limits)
        stack.push_async_callback(lanes.close)
        data_port = await lanes.start(config.host, config.data_port)
        session = await stack.enter_async_context(aiohttp.ClientSession())
        http_url = f"http://{_bracketed(config.reached_at)}:{http_port}"
        data_address = (config.reached_at, data_port)
        log.info("listening http=%s data=%s:%d", http_url, _bracketed(config.reached_at), data_port)
        report = _Reporter(config, directory, store, http_url, data_address)
        heartbeat = Heartbeat(config.join, directory, secret, report, session)
        store.upkeep.may_drop = lambda: heartbeat.may_delete
        yield Node(config, directory, store, http, heartbeat, http_url, data_address)


class _Reporter:
    """Makes this process's reports."""

    def __init__(
        self,
        config: Config,
        directory: DataDirectory,
        store: VolumeStore,
        http_url: str,
        data_address: tuple[str, int],
    ) -> None:
        self._config, self._directory, self._store = config, directory, store
        self._http_url, self._data_address = http_url, data_address
        self._instance = secrets.token_hex(16)

    async def __call__(self) -> NodeReport:
        identity = self._directory.identity
        stat, upkeep = await self._store.stat(), self._store.upkeep
        host, port = self._data_address
        return NodeReport(
            node_id=identity.node_id,
            instance=self._instance,
            cluster_id=identity.cluster_id,
            name=identity.name,
            zone=self._config.zone,
            http_url=self._http_url,
            data_host=host,
            data_port=port,
            **asdict(stat) | {"failure": _printable(stat.failure)},
            epoch=identity.epoch,
            bad_shards=upkeep.quarantine.bad_shards,
            verified_at=upkeep.scrubber.verified_at,
            scrub_interval_s=math.ceil(min(self._config.scrub_interval_s, MAX_INTERVAL_S)),
        )


def _printable(text: str) -> str:
    """As much of it as a report takes."""
    return "".join(c if c.isprintable() else "?" for c in text[:MAX_FAILURE])


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host


async def serve(node: Node, stop: asyncio.Event) -> None:
    """Join, say so, and heartbeat until `stop`. Raises as Heartbeat.join and Heartbeat.run."""
    stopping = asyncio.create_task(stop.wait())
    living = asyncio.create_task(_join_and_beat(node))
    try:
        await asyncio.wait({stopping, living}, return_when=asyncio.FIRST_COMPLETED)
        if living.done():
            await living
    finally:
        for task in (stopping, living):
            task.cancel()
        await asyncio.gather(stopping, living, return_exceptions=True)


async def _join_and_beat(node: Node) -> None:
    await node.join()
    host, port = node.data_address
    said = f"ready http={node.http_url} data={_bracketed(host)}:{port}\n"
    print(said, end="", flush=True)  # one write: the log is shared
    await node.heartbeat.run()

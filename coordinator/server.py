"""Puts a coordinator together, starts it and takes it down again."""

import asyncio
import contextlib
import logging
import time
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path

import aiohttp
from aiohttp import web

from common.auth import ClusterSecret
from common.codec import Codec
from common.units import KIB
from coordinator.buffers import StripeBuffers
from coordinator.cluster import Cluster
from coordinator.config import ALL_SHARDS, DATA_SHARDS, Config
from coordinator.deleting import CollectWorker, OutboxWorker
from coordinator.draining import Draining
from coordinator.http.admin import AdminHandlers
from coordinator.http.blobs import BlobHandlers
from coordinator.http.care import CareHandlers
from coordinator.http.deletes import DeleteHandlers
from coordinator.http.draining import DrainHandlers
from coordinator.http.errors import errors_as_json
from coordinator.http.malformed import JsonErrorsRunner
from coordinator.http.nodes import NodeHandlers
from coordinator.jobs import Worker, keep_going, run_worker
from coordinator.metadata import open_metadata
from coordinator.offload import Offload
from coordinator.read_path import ReadPath
from coordinator.rebalance import RebalanceWorker
from coordinator.rebundle import RebundleWorker
from coordinator.repair import RepairWorker
from coordinator.risk_report import RiskReport
from coordinator.rot import RotWorker
from coordinator.scrub import ScrubWorker
from coordinator.services import Services
from coordinator.settling import Settling
from coordinator.sweep import SweepWorker
from coordinator.throttle import Throttle
from coordinator.write_path import WritePath

log = logging.getLogger(__name__)

NODE_HTTP_TIMEOUT_S = 30.0
SHUTDOWN_S = 10.0
MAX_MESSAGE_BYTES = 64 * KIB  # of requests that are read as a whole; uploads stream
LINGER_S = 2.0  # how long a client may go on sending a body that was refused
READ_BUFFER_BYTES = 256 * KIB  # of a request's body, for each connection


class Coordinator:
    """`async with Coordinator(...)` serves; `url` tells where. With `shares_port`, other processes
    may listen on the same port, and the kernel deals out the connections."""

    def __init__(
        self,
        config: Config,
        secret: ClusterSecret,
        clock: Callable[[], float] = time.monotonic,
        shares_port: bool = False,
    ) -> None:
        self._config, self._secret, self._clock = config, secret, clock
        self._shares_port = shares_port
        self._stack = AsyncExitStack()
        self.url = ""

    async def __aenter__(self) -> "Coordinator":
        try:
            await self._start()
        except BaseException:
            await self._stack.aclose()
            raise
        return self

    async def __aexit__(self, *error: object) -> None:
        await self._stack.aclose()

    async def _start(self) -> None:
        """What starts first ends last."""
        config, on_exit = self._config, self._stack.push_async_callback
        self.metadata = open_metadata(
            Path(config.data),
            config.database,
            config.grace_s,
            cluster_id=config.adopt_cluster,
            lost_after_s=config.lost_after_s,
        )
        on_exit(self.metadata.close)
        await self.metadata.start()
        timeout = aiohttp.ClientTimeout(total=NODE_HTTP_TIMEOUT_S)
        http = await self._stack.enter_async_context(aiohttp.ClientSession(timeout=timeout))
        self.cluster = Cluster(config, self._secret, self.metadata, http, self._clock)
        on_exit(self.cluster.close)
        await self.cluster.membership.load()
        offload = Offload()
        self._stack.callback(offload.close)
        codec = Codec(DATA_SHARDS, ALL_SHARDS, config.codec)
        log.info("codec: %s, %d of %d", codec.backend_name, codec.k, codec.n)
        buffers = StripeBuffers(config.buffer_bytes)
        services = Services(config, codec, self.cluster, self.metadata, buffers, offload)
        self.services, self.buffers = services, buffers
        self.reads, self.writes = ReadPath(services), WritePath(services)
        on_exit(self.reads.settle)
        on_exit(self.writes.settle)
        settling = Settling(self.cluster.membership, DATA_SHARDS)
        self.cluster.on_loss = settling.look
        on_exit(settling.close)
        self._run_behind("session", self.metadata.keep_session)
        self._run_behind("reports", self.cluster.membership.follow)
        for worker in self._workers(services):
            self._run_behind(worker.name, partial(run_worker, worker, self.metadata))
        blobs = BlobHandlers(config, self.writes, self.reads, self.metadata, settling)
        nodes = NodeHandlers(self.cluster.membership, self.metadata, self._secret, codec, settling)
        admin = AdminHandlers(self.metadata, self.cluster, self.reads)
        risks = RiskReport(config, self.metadata, self.cluster, self._clock)
        care = CareHandlers(services, risks)
        deletes, drains = DeleteHandlers(self.metadata), DrainHandlers(Draining(services))
        handlers = (blobs, nodes, admin, care, deletes, drains)
        await self._listen([route for each in handlers for route in each.routes()])

    def _workers(self, services: Services) -> list[Worker]:
        config, metadata, cluster = self._config, self.metadata, self.cluster
        throttle = Throttle(config.repair_bytes_per_s)
        rebalance = RebalanceWorker(services, throttle, self._clock)
        return [
            OutboxWorker(metadata, cluster),
            CollectWorker(metadata, cluster),
            RebundleWorker(metadata, self.reads, self.writes.bundler, throttle),
            SweepWorker(metadata, cluster, config.sweep_every_s),
            RepairWorker(services, throttle),
            RotWorker(services),
            *([] if config.no_rebalance else [rebalance]),
            ScrubWorker(services, Throttle(config.scrub_bytes_per_s), config.scrub_interval_s),
        ]

    def _run_behind(self, name: str, job: Callable[[], Awaitable[None]]) -> None:
        task = asyncio.create_task(keep_going(name, job), name=name)
        self._stack.push_async_callback(_end, task)

    async def _listen(self, routes: list[web.RouteDef]) -> None:
        app = web.Application(middlewares=[errors_as_json], client_max_size=MAX_MESSAGE_BYTES)
        app.add_routes(routes)
        runner = JsonErrorsRunner(
            app,
            access_log=None,
            handle_signals=False,
            shutdown_timeout=SHUTDOWN_S,
            read_bufsize=READ_BUFFER_BYTES,
            lingering_time=LINGER_S,
            auto_decompress=False,
        )
        await runner.setup()
        self._stack.push_async_callback(runner.cleanup)
        site = web.TCPSite(
            runner, self._config.host, self._config.port, reuse_port=self._shares_port or None
        )
        await site.start()
        host, port = runner.addresses[0][:2]
        self.url = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


async def _end(task: "asyncio.Task[None]") -> None:
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task

"""`sixfold up`: one coordinator and its nodes on this machine, until Ctrl-C or SIGTERM.

It starts and ends them and tells when one has ended, but never restarts it.
"""

import asyncio
import os
import signal
import socket
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, replace
from pathlib import Path
from urllib.parse import urlsplit

from common.errors import Conflict, Unavailable
from sixfold.answers import ClusterStat
from sixfold.client import Client
from sixfold.console import Console, aligned
from sixfold.joining import until_joined
from sixfold.left_out import left_out
from sixfold.local import PRIVATE_DIR, LocalCluster, LocalDirectory, ServerProcess
from sixfold.processes import (
    START_S,
    StartedServer,
    servers_in,
    start_server,
    stop_all,
    until_ready,
)
from sixfold.servers import server_command

HOST = "127.0.0.1"
ZONE = "local"
WATCH_S = 0.2


def run_up(
    path: Path, nodes: int, port: int, coordinator_options: Sequence[str], console: Console
) -> None:
    """Returns after a clean stop. Raises Conflict if something stands in the way."""
    directory = LocalDirectory(path)
    directory.create()
    with directory.owned():
        directory.fill()
        _refuse_leftovers(directory)
        _refuse_used_port(port)
        asyncio.run(_serve_until_told(_Up(directory, nodes, port, coordinator_options, console)))


def _refuse_leftovers(directory: LocalDirectory) -> None:
    left = servers_in(directory.path)
    if left:
        names = ", ".join(f"{process.name} (pid {process.pid})" for process in left)
        raise Conflict(
            f"servers of an earlier sixfold up still run in {directory.path}: {names}; "
            f"end them with sixfold local stop --dir {directory.path}"
        )


def _refuse_used_port(port: int) -> None:
    """The coordinator would find out as well, but less clearly."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError as error:
            reason = os.strerror(error.errno or 0).lower()
            raise Conflict(f"port {port}: {reason}; choose another with --port") from None


async def _serve_until_told(up: "_Up") -> None:
    serving = asyncio.create_task(up.serve())
    cut = asyncio.Event()

    def told() -> None:
        """The second time, not to wait for requests."""
        if serving.cancelling() or serving.done():
            cut.set()
        else:
            serving.cancel()

    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, told)
    # A terminal that closes may send it several times, and means no hurry by that.
    loop.add_signal_handler(signal.SIGHUP, serving.cancel)
    try:
        with suppress(asyncio.CancelledError):
            await serving
    finally:
        await up.stop(cut.is_set)


class _Up:
    def __init__(
        self,
        directory: LocalDirectory,
        nodes: int,
        port: int,
        coordinator_options: Sequence[str],
        console: Console,
    ) -> None:
        self._directory, self._port, self._console = directory, port, console
        self._coordinator_options = coordinator_options
        existing = directory.node_numbers()
        if len(existing) > nodes:
            console.note(f"{directory.path} holds {len(existing)} nodes: starting all of them")
        numbers = sorted({*existing, *range(1, nodes + 1)})
        self._names = [f"node-{number}" for number in numbers]
        self._started: list[StartedServer] = []
        self._left_out: list[ServerProcess] = []

    async def serve(self) -> None:
        """Starts everything, says `ready`, and watches until it is cancelled."""
        coordinator = await self._start_coordinator()
        await self._leave_out(coordinator.url)
        nodes = [self._start(self._node(name, coordinator.url)) for name in self._names]
        await until_ready(nodes)
        cluster = await self._until_joined(coordinator.url)
        processes = [coordinator, *(node.process for node in nodes), *self._left_out]
        described = LocalCluster(
            url=coordinator.url,
            codec=cluster.codec,
            cluster_id=cluster.cluster_id,
            directory=str(self._directory.path),
            processes=processes,
        )
        self._directory.write(described)
        self._console.result(asdict(described), *self._summary(described), "ready")
        await self._watch()

    async def stop(self, is_cut: Callable[[], bool]) -> None:
        """Ends every server of the directory, those of `sixfold local start` as well."""
        with self._directory.editing():
            await stop_all(servers_in(self._directory.path), is_cut, self._console.note)
            self._directory.cluster_json.unlink(missing_ok=True)

    async def _start_coordinator(self) -> ServerProcess:
        """The process, with a command line that takes the same port again if it was a free one."""
        place = [*self._coordinator_options, "--host", HOST, "--port", str(self._port)]
        server = self._start(self._described("coordinator", "coordinator", place))
        await until_ready([server])
        port = urlsplit(server.process.url).port
        return replace(server.process, argv=[*server.process.argv[:-1], str(port)])

    async def _leave_out(self, url: str) -> None:
        """Only tell of nodes that would be refused: the others shall start all the same."""
        async with Client(url) as client:
            nodes = (await client.nodes()).nodes
        for name, reason in left_out(self._directory, self._names, nodes).items():
            self._names.remove(name)
            self._left_out.append(self._node(name, url))
            self._console.note(reason)

    def _node(self, name: str, coordinator_url: str) -> ServerProcess:
        ports = ["--port", "0", "--data-port", "0"]
        return self._described(
            "shardd", name, ["--join", coordinator_url, "--name", name, "--zone", ZONE, *ports]
        )

    def _described(self, role: str, name: str, arguments: Sequence[str]) -> ServerProcess:
        """A server that has not been started."""
        data, log = self._directory.data(name), self._directory.log(name)
        common = ["--data", str(data), "--secret-file", str(self._directory.secret)]
        command = server_command(role, [*common, *arguments])
        return ServerProcess(role, name, 0, "", str(data), str(log), command)

    def _start(self, described: ServerProcess) -> StartedServer:
        Path(described.data).mkdir(PRIVATE_DIR, exist_ok=True)
        server = start_server(described)
        self._started.append(server)
        return server

    async def _until_joined(self, url: str) -> ClusterStat:
        """Until the coordinator has heard from every node."""

        def check() -> None:
            for server in self._started:
                server.ready()  # raises for one that has ended

        try:
            return await until_joined(url, lambda: self._names, START_S, check)
        except TimeoutError as error:
            raise Unavailable(
                f"{error} after {START_S:.0f} s; see {self._directory.logs}"
            ) from None

    def _summary(self, cluster: LocalCluster) -> list[str]:
        directory = self._directory
        return aligned(
            [
                ("url", cluster.url),
                ("nodes", f"{len(self._names)} ({self._names[0]} to {self._names[-1]})"),
                ("data", str(directory.path)),
                ("logs", str(directory.logs)),
                ("processes", str(directory.cluster_json)),
                ("secret", str(directory.secret)),
                ("codec", cluster.codec),
            ]
        )

    async def _watch(self) -> None:
        watched = list(self._started)
        while True:
            for server, end in [(server, server.end()) for server in watched]:
                if end is not None:
                    watched.remove(server)
                    self._console.note(f"{server} (pid {server.process.pid}) {end}")
            await asyncio.sleep(WATCH_S)

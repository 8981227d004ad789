"""A coordinator and its nodes as real processes, any of which may be killed and started again."""

import asyncio
import json
import signal
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import aiohttp

from sixfold.local import PRIVATE_DIR, LocalDirectory, ServerProcess
from sixfold.processes import StartedServer, arguments_of, send, servers_in, start_server, until
from sixfold.servers import server_command

COORDINATOR = "coordinator"
DEADLINE_S = 60.0  # for what takes a second or two when all is well
LAST_LINES = 15  # of each log, when something has failed


@dataclass(frozen=True, slots=True)
class Home:
    """Where a server runs: a command that becomes it, and options of its own."""

    prefix: Sequence[str] = ()
    options: Sequence[str] = ()


def node_names(count: int) -> list[str]:
    return [f"node-{number}" for number in range(1, count + 1)]


class Servers:
    """They live in `directory`, as those of `sixfold up` do."""

    def __init__(
        self,
        directory: Path,
        coordinator_options: Sequence[str] = (),
        node_options: Sequence[str] = (),
        homes: Mapping[str, Home] = {},
    ) -> None:
        self._homes = homes
        self.directory = LocalDirectory(directory)
        self.directory.create()
        self.directory.fill()
        self._options = {COORDINATOR: list(coordinator_options), "shardd": list(node_options)}
        self._port = 0
        self._running: dict[str, StartedServer] = {}

    @property
    def url(self) -> str:
        return self._running[COORDINATOR].process.url

    def runs(self, name: str) -> bool:
        """Whether it was started and has not ended."""
        server = self._running.get(name)
        return server is not None and server.child.poll() is None

    def ended_with(self, name: str) -> int | None:
        """The exit code; None while it runs."""
        return self._running[name].child.poll()

    def data(self, name: str) -> Path:
        return self.directory.data(name)

    async def start_all(self, nodes: Sequence[str]) -> None:
        """Returns when every node has joined and is reached."""
        await self.start(COORDINATOR)
        await asyncio.gather(*map(self.start, nodes))
        await self.until_active(nodes)

    async def start(self, name: str, environment: Mapping[str, str] = {}) -> None:
        """Returns when it serves; for a node, once it has joined. Raises what it ended with."""
        server = self.launch(name, environment)
        if not await until(server.ready, DEADLINE_S):
            raise server.failure("is not ready")
        if name == COORDINATOR:
            self._port = urlsplit(self.url).port or 0

    def launch(self, name: str, environment: Mapping[str, str] = {}) -> StartedServer:
        """Started, and not waited for."""
        assert not self.runs(name), name
        settings = [f"{key}={value}" for key, value in environment.items()]
        home = self._homes.get(name, Home())
        command = [*home.prefix, "env", *settings, *self._command(name), *home.options]
        self.data(name).mkdir(PRIVATE_DIR, exist_ok=True)
        data, log = str(self.data(name)), str(self.directory.log(name))
        server = start_server(ServerProcess(_role(name), name, 0, "", data, log, command))
        self._running[name] = server
        return server

    def _command(self, name: str) -> list[str]:
        place = ["--data", str(self.data(name)), "--secret-file", str(self.directory.secret)]
        options = [*place, *self._options[_role(name)]]
        if name == COORDINATOR:
            return server_command(COORDINATOR, ["--port", str(self._port), *options])
        join = ["--join", self.url, "--name", name]
        return server_command("shardd", [*join, *options])

    def signal(self, name: str, number: signal.Signals) -> None:
        send(self._running[name].process, number)

    def kill(self, name: str) -> None:
        """SIGKILL. Returns when it has ended; workers end by themselves, soon after."""
        child = self._running[name].child
        child.kill()
        child.wait()

    def workers(self) -> list[int]:
        """Process ids of the coordinator's workers; none if it is a single process."""
        above = self._running[COORDINATOR].process.pid
        found = [one.pid for one in servers_in(self.directory.path) if one.name == COORDINATOR]
        return [pid for pid in found if pid != above and "--as-worker" in arguments_of(pid)]

    async def nodes(self) -> dict[str, Any]:
        """What the coordinator says of the nodes, by name."""
        async with aiohttp.ClientSession() as http, http.get(f"{self.url}/-/admin/nodes") as answer:
            return {node["name"]: node for node in json.loads(await answer.read())["nodes"]}

    async def until_active(self, names: Sequence[str]) -> None:
        await self.until_state("active", names)

    async def until_state(self, state: str, names: Sequence[str]) -> None:
        """Raises TimeoutError, which says what the states are instead."""
        states: dict[str, str] = {}
        try:
            async with asyncio.timeout(DEADLINE_S):
                while any(states.get(name) != state for name in names):
                    await asyncio.sleep(0.05)
                    try:
                        states = {name: one["state"] for name, one in (await self.nodes()).items()}
                    except aiohttp.ClientError:
                        states = {}
        except TimeoutError:
            raise TimeoutError(f"wanted {state}: {names}, have {states}") from None

    async def end(self) -> None:
        """Kills all that still runs, workers too."""
        for server in self._running.values():
            server.child.kill()
            server.child.wait()
        await until(lambda: not servers_in(self.directory.path), DEADLINE_S)

    def log_ends(self) -> str:
        """The last lines of every process."""
        return "\n".join(
            "\n".join(
                [f"--- {log.name}", *log.read_text(errors="replace").splitlines()[-LAST_LINES:]]
            )
            for log in sorted(self.directory.logs.iterdir())
        )


def _role(name: str) -> str:
    return COORDINATOR if name == COORDINATOR else "shardd"


@asynccontextmanager
async def running(
    directory: Path,
    nodes: int = 9,
    coordinator_options: Sequence[str] = (),
    node_options: Sequence[str] = (),
    homes: Mapping[str, Home] = {},
) -> AsyncIterator[Servers]:
    """All of them, killed when the block ends; the ends of their logs are printed if it fails."""
    servers = Servers(directory, coordinator_options, node_options, homes)
    try:
        await servers.start_all(node_names(nodes))
        yield servers
    except BaseException:
        print(servers.log_ends())
        raise
    finally:
        await servers.end()

"""`sixfold local start`: starts processes of a local cluster again, all at once, and waits until
they are part of it. What was started is left to run, whatever goes wrong while it waits."""

import time
from collections.abc import Callable, Sequence

from common.errors import Conflict, SixfoldError, Unavailable
from sixfold import processes
from sixfold.console import Console
from sixfold.joining import until_joined
from sixfold.local import LocalDirectory, ServerProcess
from sixfold.processes import StartedServer, start_server, state_of, until

WAY_BACK = {"gone": "start", "paused": "resume"}


async def start_again(
    directory: LocalDirectory,
    names: Sequence[str],
    console: Console,
    tell: Callable[[ServerProcess], None],
) -> int:
    """`tell` gets those that serve. The exit code; errors are told as they are met."""
    started: list[StartedServer] = []

    async def start(name: str) -> None:
        started.append(_start(directory, name))

    first = await console.each(names, start)
    waiting = _Waiting(directory, console, started)
    second = await waiting.until_serving(tell)
    return first or second or await waiting.until_joined()


def _start(directory: LocalDirectory, name: str) -> StartedServer:
    """As `sixfold up` did. Raises Conflict if it runs, or if no `sixfold up` is there to end it
    one day."""
    with directory.editing():
        cluster = directory.read()
        process = cluster.find(name)
        _check_startable(directory, process)
        server = start_server(process)
        directory.write(cluster.with_process(server.process))
        return server


def _check_startable(directory: LocalDirectory, process: ServerProcess) -> None:
    state = state_of(process)
    if state == "paused":
        raise Conflict(f"{process.name} is paused: sixfold local resume {process.name}")
    if state == "running":
        raise Conflict(f"{process.name} (pid {process.pid}) is running")
    if directory.owner_pid() is None:
        raise Conflict(f"no sixfold up runs in {directory.path}: start that instead")


class _Waiting:
    """For servers that were just started: `processes.START_S` for all together."""

    def __init__(
        self, directory: LocalDirectory, console: Console, started: list[StartedServer]
    ) -> None:
        self._directory, self._console = directory, console
        # The coordinator first: what it does decides what can be expected of nodes.
        self._started = sorted(started, key=lambda server: server.process.role != "coordinator")
        self._serving: list[StartedServer] = []
        self._limit_s = processes.START_S
        self._end_s = time.monotonic() + self._limit_s

    def _left_s(self) -> float:
        return max(0.0, self._end_s - time.monotonic())

    def _coordinator(self) -> ServerProcess:
        return self._directory.read().find("coordinator")

    async def until_serving(self, tell: Callable[[ServerProcess], None]) -> int:
        """The exit code."""

        async def until_one_serves(server: StartedServer) -> None:
            def serves() -> bool:
                """Without a coordinator, no node gets beyond listening."""
                alone = state_of(self._coordinator()) != "running"
                return server.ready() or (alone and server.listening())

            if not await until(serves, self._left_s()):
                raise self._late(f"{server.process.name} is not ready", server.process.log)
            with self._directory.editing():
                self._directory.write(self._directory.read().with_process(server.process))
            self._serving.append(server)
            tell(server.process)

        return await self._console.each(self._started, until_one_serves)

    async def until_joined(self) -> int:
        """The exit code. Without a coordinator there is nothing to wait for."""
        names = self._expected()
        coordinator = self._coordinator()
        state = state_of(coordinator)
        if names and state != "running":
            self._console.note(
                f"the coordinator is {state}: {', '.join(names)} will join when it is back "
                f"(sixfold local {WAY_BACK[state]} coordinator)"
            )
        elif names:
            return await self._until_joined(coordinator.url)
        return 0

    async def _until_joined(self, url: str) -> int:
        try:
            await until_joined(url, self._expected, self._left_s(), self._check)
        except TimeoutError as error:
            return self._console.error(self._late(str(error), str(self._directory.logs)))
        except SixfoldError as error:
            return self._console.error(error)
        return 0

    def _expected(self) -> list[str]:
        """The nodes that should join: all that run, if the coordinator was away. One that was
        removed meanwhile will end."""
        nodes = [server.process for server in self._serving]
        if any(process.role == "coordinator" for process in nodes):
            nodes = self._directory.read().processes
        return [
            process.name
            for process in nodes
            if process.role != "coordinator" and state_of(process) == "running"
        ]

    def _check(self) -> None:
        """Raises if one has ended after all."""
        for server in self._serving:
            server.ready()

    def _late(self, what: str, log: str) -> Unavailable:
        return Unavailable(f"{what} after {self._limit_s:.0f} s (left running; see {log})")

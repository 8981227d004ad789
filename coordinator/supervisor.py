"""Several coordinator processes on one port: starts them, starts them again, ends them.

Each worker is this program with `--as-worker` in front of its settings. Its standard output says
when it serves; its standard input is a leash: when that ends, because the supervisor has, so does
the worker.
"""

import asyncio
import logging
import signal
import socket
import sys
from asyncio import gather
from asyncio.subprocess import PIPE, Process
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace

from common.settings import as_flags
from coordinator.config import Config

log = logging.getLogger(__name__)

WORKER_FLAG = "--as-worker"  # the first argument; not a setting, since nobody else needs it
READY = "ready http="
FIRST_RETRY_S, LAST_RETRY_S = 0.25, 10.0
SETTLED_S = 60.0  # a worker that lived so long is started again without much delay
STOP_S = 20.0  # twice what a worker gives its clients
READY_S = 120.0  # the database may have to be brought forward first


async def supervise(config: Config) -> int:
    """Prints `ready http=<url>` once all workers serve. Returns when all have ended: 0 after
    SIGTERM or SIGINT, the exit code of one that could not start. Raises OSError if the port is in
    use."""
    with reserved_port(config.host, config.port) as port:
        supervisor = Supervisor(replace(config, port=port))
        serving = asyncio.create_task(supervisor.serve())
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, serving.cancel)
        try:
            return await serving
        except asyncio.CancelledError:
            return 0
        finally:
            await supervisor.stop()


@contextmanager
def reserved_port(host: str, port: int) -> Iterator[int]:
    """A port that our workers can share, and nobody else can have while the block runs.

    The sockets are bound alone, which fails if anyone has the port, and shared afterwards. They
    never listen: no connection is dealt out to them.
    """
    with ExitStack() as stack:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        for family, kind, protocol, _, address in dict.fromkeys(found):
            bound = stack.enter_context(socket.socket(family, kind, protocol))
            if family == socket.AF_INET6:
                bound.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # past TIME_WAIT
            bound.bind((address[0], port, *address[2:]))
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 0)
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            port = bound.getsockname()[1]
        yield port


class Supervisor:
    """The workers of one port."""

    def __init__(self, config: Config) -> None:
        self._workers = [Worker(number, config) for number in range(1, config.workers + 1)]

    async def serve(self) -> int:
        """Until cancelled, unless a worker cannot start: then its exit code. It says why itself,
        and the first one starts alone so that it is said once."""
        first, *others = self._workers
        if not await first.start() or not all(await gather(*(w.start() for w in others))):
            return next(worker.exit_code for worker in self._workers if not worker.url)
        print(f"{READY}{first.url}\n", end="", flush=True)  # one write: workers share the log
        await gather(*(worker.keep() for worker in self._workers))
        raise AssertionError("workers are kept for ever")

    async def stop(self) -> None:
        """Ends all workers and waits until they have ended."""
        await gather(*(worker.stop() for worker in self._workers))


class Worker:
    """One place among the workers: whichever process takes it."""

    def __init__(self, number: int, config: Config) -> None:
        self._name = f"worker {number}"
        python = [sys.executable, *(["-P"] if sys.flags.safe_path else [])]
        self._command = [*python, "-m", "coordinator", WORKER_FLAG, *as_flags(config)]
        self._process: Process | None = None
        self.url = ""

    @property
    def exit_code(self) -> int:
        """Of a process that ended although it should not have."""
        code = self._process.returncode if self._process else None
        return code if code and code > 0 else 1

    async def start(self) -> bool:
        """Whether it serves now; else it has ended."""
        process = await asyncio.create_subprocess_exec(*self._command, stdin=PIPE, stdout=PIPE)
        self._process, self.url = process, ""
        line = await self._first_line(process)
        if not line.startswith(READY):
            await process.wait()
            return False
        self.url = line.removeprefix(READY).strip()
        log.info("%s (pid %d) serves", self._name, process.pid)
        return True

    async def _first_line(self, process: Process) -> str:
        """Empty if it has ended, or was ended because it said nothing for too long."""
        assert process.stdout is not None
        try:
            async with asyncio.timeout(READY_S):
                return (await process.stdout.readline()).decode()
        except TimeoutError:
            log.error("%s (pid %d) does not get ready: killed", self._name, process.pid)
            process.kill()
            return ""

    async def keep(self) -> None:
        """For ever: when it ends, starts another in its place."""
        retry_s, loop = FIRST_RETRY_S, asyncio.get_running_loop()
        while True:
            assert self._process is not None
            began_s = loop.time()
            returncode = await self._process.wait()
            if loop.time() - began_s > SETTLED_S:
                retry_s = FIRST_RETRY_S
            log.error("%s ended (%d); another follows in %g s", self._name, returncode, retry_s)
            await asyncio.sleep(retry_s)
            retry_s = min(LAST_RETRY_S, 2 * retry_s)
            await self.start()

    async def stop(self) -> None:
        """Gracefully, or by force if that takes too long."""
        process = self._process
        if process is None or process.returncode is not None:
            return
        with suppress(ProcessLookupError):
            process.terminate()
        try:
            async with asyncio.timeout(STOP_S):
                await process.wait()
        except TimeoutError:
            log.error("%s (pid %d) does not end: killed", self._name, process.pid)
            process.kill()
            await process.wait()

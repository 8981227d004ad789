"""`python -m coordinator`: read the settings once, serve until told to stop."""

import asyncio
import errno
import logging
import os
import signal
import sys
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import uvloop
from aiohttp.http_exceptions import HttpProcessingError

from common import failpoints
from common.auth import ClusterSecret
from common.errors import BadSetting, Conflict, SixfoldError
from common.interpreter import calm_the_collector
from common.settings import make_settings, parse_flags
from coordinator.config import Config
from coordinator.server import Coordinator
from coordinator.supervisor import READY, WORKER_FLAG, supervise


async def serve(config: Config, secret: ClusterSecret, as_worker: bool = False) -> None:
    """Prints `ready http=<url>` once requests are served; returns on SIGTERM or SIGINT. A worker
    also does when its standard input ends, since its supervisor has ended then."""
    loop, stop = asyncio.get_running_loop(), asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    if as_worker:
        loop.add_reader(sys.stdin.fileno(), _let_go, loop, stop)
    async with Coordinator(config, secret, shares_port=as_worker) as coordinator:
        print(f"{READY}{coordinator.url}\n", end="", flush=True)  # one write: the log is shared
        await stop.wait()


def _let_go(loop: asyncio.AbstractEventLoop, stop: asyncio.Event) -> None:
    """Nothing is ever sent on a worker's standard input: it can be read because it has ended."""
    loop.remove_reader(sys.stdin.fileno())
    stop.set()


def read_config(arguments: list[str]) -> Config:
    """Flags rank above the file. Raises BadSetting."""
    flags, path = parse_flags(Config, "coordinator", arguments)
    from_file: dict[str, Any] = {}
    if path is not None:
        try:
            from_file = tomllib.loads(Path(path).read_text())
        except (OSError, ValueError) as error:
            raise BadSetting(f"--config {path}: {error}") from None
    return make_settings(Config, from_file, flags)


def read_secret(path: str) -> ClusterSecret:
    """Raises BadSetting."""
    try:
        return ClusterSecret(Path(path).read_bytes().strip())
    except OSError as error:
        raise BadSetting(f"secret_file {path}: {error.strerror}") from None


def main() -> None:
    as_worker = sys.argv[1:2] == [WORKER_FLAG]
    who = "%(process)d %(name)s" if as_worker else "%(name)s"
    logging.basicConfig(level=logging.INFO, format=f"%(asctime)s %(levelname)s {who} %(message)s")
    logging.getLogger("aiohttp.server").addFilter(_without_trace)
    os.umask(0o077)  # SQLite gives no choice of mode
    try:
        config = read_config(sys.argv[1 + as_worker :])
        secret = read_secret(config.secret_file)
        calm_the_collector()
        failpoints.arm(os.environ.get(failpoints.ENVIRONMENT, ""), os._exit)
        with _port_in_use_is_a_conflict(config.port):
            if config.workers > 1 and not as_worker:
                sys.exit(asyncio.run(supervise(config)))
            uvloop.run(serve(config, secret, as_worker))
    except SixfoldError as error:
        sys.exit(_report(str(error), error.exit_code))
    except OSError as error:
        sys.exit(_report(str(error), 1))


@contextmanager
def _port_in_use_is_a_conflict(port: int) -> Iterator[None]:
    """Raises Conflict."""
    try:
        yield
    except OSError as error:
        if error.errno != errno.EADDRINUSE:
            raise
        reason = "address already in use; choose another with --port"
        raise Conflict(f"port {port}: {reason}") from None


def _without_trace(record: logging.LogRecord) -> bool:
    """A malformed request is the sender's fault: a line is enough, ours would be a trace."""
    if record.exc_info and isinstance(record.exc_info[1], HttpProcessingError):
        first_line = str(record.exc_info[1].message).split("\n")[0]
        record.msg, record.args = f"{record.getMessage()}: malformed HTTP: {first_line[:120]}", ()
        record.exc_info, record.levelno, record.levelname = None, logging.INFO, "INFO"
    return True


def _report(message: str, exit_code: int) -> int:
    print(f"coordinator: {message}", file=sys.stderr)
    return exit_code


if __name__ == "__main__":
    main()

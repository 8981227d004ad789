"""`python -m coordinator`: read the settings once, serve until told to stop."""

import asyncio
import logging
import signal
import sys
import tomllib
from pathlib import Path
from typing import Any

import uvloop
from aiohttp.http_exceptions import HttpProcessingError

from common.auth import ClusterSecret
from common.errors import BadSetting, SixfoldError
from common.interpreter import calm_the_collector
from common.settings import make_settings, parse_flags
from coordinator.config import Config
from coordinator.server import Coordinator


async def serve(config: Config, secret: ClusterSecret) -> None:
    """Prints `ready http=<url>` once requests are served; returns on SIGTERM or SIGINT."""
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    async with Coordinator(config, secret) as coordinator:
        print(f"ready http={coordinator.url}", flush=True)
        await stop.wait()


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
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    logging.getLogger("aiohttp.server").addFilter(_without_trace)
    try:
        config = read_config(sys.argv[1:])
        secret = read_secret(config.secret_file)
        calm_the_collector()
        uvloop.run(serve(config, secret))
    except SixfoldError as error:
        sys.exit(_report(str(error), error.exit_code))
    except OSError as error:
        sys.exit(_report(str(error), 1))


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

"""`python -m shardd --join URL --data DIR --secret-file F`: run a storage node."""

import asyncio
import errno
import logging
import os
import resource
import signal
import sys
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import uvloop

from common import failpoints
from common.errors import BadSetting, Conflict, SixfoldError
from common.interpreter import calm_the_collector
from common.settings import make_settings, parse_flags
from shardd.config import Config, read_secret
from shardd.node import running, serve


def main(arguments: Sequence[str]) -> int:
    """The exit code."""
    logging.basicConfig(
        stream=sys.stderr,
        level=logging.INFO,
        format="%(asctime)s %(levelname)s %(name)s %(message)s",
    )
    os.umask(0o077)  # SQLite gives no choice of mode
    try:
        flags, path = parse_flags(Config, "shardd", arguments)
        config = make_settings(Config, _read_file(path), flags)
        _raise_descriptor_limit()
        calm_the_collector()
        failpoints.arm(os.environ.get(failpoints.ENVIRONMENT, ""), os._exit)
        uvloop.run(_run(config))
    except SixfoldError as error:
        print(f"shardd: {error}", file=sys.stderr)
        return error.exit_code
    except OSError as error:
        in_use = error.errno == errno.EADDRINUSE
        print(f"shardd: {error.strerror if in_use else error}", file=sys.stderr)
        return Conflict.exit_code if in_use else SixfoldError.exit_code
    return 0


def _read_file(path: str | None) -> dict[str, Any]:
    if path is None:
        return {}
    try:
        return tomllib.loads(Path(path).read_text())
    except (OSError, ValueError) as error:
        raise BadSetting(f"the settings file {path} cannot be read: {error}") from None


def _raise_descriptor_limit() -> None:
    """Every volume stays open: a descriptor per GiB, and the lanes."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


async def _run(config: Config) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    async with running(config, read_secret(config.secret_file)) as node:
        await serve(node, stop)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

"""How to start the two servers: as processes of this Python, never by importing them."""

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn


def server_command(module: str, arguments: Sequence[str]) -> list[str]:
    """-P keeps the working directory out of the module path: a folder `common` of the user's
    must not take the place of ours."""
    return [sys.executable, "-P", "-m", module, *arguments]


def server_environment() -> dict[str, str]:
    """With the place of this package as the last resort, for a checkout that is not installed."""
    ours = str(Path(__file__).resolve().parent.parent)
    paths = [path for path in (os.environ.get("PYTHONPATH"), ours) if path]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}


def exec_server(module: str, arguments: Sequence[str]) -> NoReturn:
    """Becomes the server: its signals, its output, its exit code."""
    command = server_command(module, arguments)
    os.execve(command[0], command, server_environment())

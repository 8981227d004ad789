"""Processes that only look like servers, in a directory as `sixfold up` makes it."""

import sys
from pathlib import Path

from sixfold.local import LocalCluster, LocalDirectory, ServerProcess

READY = "print('ready http=http://127.0.0.1:1 data=x', flush=True); "
SLEEP = "import signal; signal.pause()"


def directory_in(path: Path) -> LocalDirectory:
    directory = LocalDirectory(path / "cluster")
    directory.create()
    directory.fill()
    return directory


def pretended(directory: LocalDirectory, name: str, code: str) -> ServerProcess:
    """What starts `python -c code` under the name."""
    data, log = str(directory.data(name)), str(directory.log(name))
    role = "coordinator" if name == "coordinator" else "shardd"
    argv = [sys.executable, "-c", code, "--data", data]
    return ServerProcess(role, name, 0, "", data, log, argv)


def describe(directory: LocalDirectory, *processes: ServerProcess) -> None:
    """Writes cluster.json."""
    directory.write(LocalCluster("http://x", "isal", "c", str(directory.path), list(processes)))

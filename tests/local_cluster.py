"""A real local cluster for tests: `sixfold up` as a process, and handles on its parts."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.request import urlopen

from tests.private_files import usual_umask

LAST_LINES = 15  # of each log, when a test has failed


@dataclass
class LocalCluster:
    """What `up` wrote to cluster.json, read anew at each look, since `local start` changes it."""

    directory: Path
    process: "subprocess.Popen[str]"

    def described(self) -> dict[str, Any]:
        content: dict[str, Any] = json.loads((self.directory / "cluster.json").read_text())
        return content

    @property
    def url(self) -> str:
        url: str = self.described()["url"]
        return url

    def pid(self, name: str) -> int:
        processes = self.described()["processes"]
        pid: int = next(p["pid"] for p in processes if p["name"] == name)
        return pid

    def kill(self, *names: str) -> None:
        """SIGKILL."""
        self.local("kill", *names)

    def local(self, command: str, *names: str) -> None:
        """`sixfold local …`."""
        run_sixfold("local", command, *names, "--dir", str(self.directory))

    def listing(self) -> dict[str, Any]:
        """What the coordinator says of the cluster."""
        with urlopen(f"{self.url}/-/admin/nodes") as answer:
            said: dict[str, Any] = json.load(answer)
        return said

    def nodes(self) -> dict[str, Any]:
        """The nodes by name."""
        return {node["name"]: node for node in self.listing()["nodes"]}

    def wait_for(self, state: str, *names: str, deadline_s: float = 60.0) -> None:
        """Until the named nodes have that state."""
        until = time.monotonic() + deadline_s
        while True:
            now = {name: node["state"] for name, node in self.nodes().items()}
            if all(now.get(name) == state for name in names):
                return
            assert time.monotonic() < until, f"wanted {state}: {names}, have {now}"
            time.sleep(0.05)

    def wait_until(self, holds: Callable[[], bool], deadline_s: float = 60.0) -> None:
        """Asks again and again."""
        until = time.monotonic() + deadline_s
        while not holds():
            assert time.monotonic() < until, f"it has not come to {holds}"
            time.sleep(0.05)

    def fresh_nodes(self) -> dict[str, Any]:
        """As `nodes`, once every one of them has reported anew: no earlier report counts."""
        until, began = time.monotonic() + 30.0, time.monotonic()
        while True:
            nodes = self.nodes()
            if all(n["last_seen_s"] < time.monotonic() - began - 0.5 for n in nodes.values()):
                return nodes
            assert time.monotonic() < until, f"some nodes do not report: {nodes}"
            time.sleep(0.05)

    def log_ends(self) -> str:
        """The last lines of every process."""
        return "\n".join(
            "\n".join(
                [f"--- {log.name}", *log.read_text(errors="replace").splitlines()[-LAST_LINES:]]
            )
            for log in sorted((self.directory / "logs").iterdir())
        )

    def rss_bytes(self, name: str) -> int:
        """The most memory that the process ever had."""
        status = Path(f"/proc/{self.pid(name)}/status").read_text()
        line = next(line for line in status.splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) * 1024


def sixfold(*arguments: str) -> "subprocess.CompletedProcess[str]":
    """Whatever the exit code."""
    command = [sys.executable, "-m", "sixfold", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


def run_sixfold(*arguments: str) -> str:
    """Standard output; fails the test unless the command succeeds."""
    done = sixfold(*arguments)
    assert done.returncode == 0, done.stderr
    return done.stdout


@contextmanager
def local_cluster(directory: Path, nodes: int = 9, *options: str) -> Iterator[LocalCluster]:
    """Runs while the block does. Ends with SIGTERM, and the exit code must then be 0."""
    command = [
        sys.executable, "-m", "sixfold", "up",
        "--nodes", str(nodes), "--dir", str(directory), "--port", "0", *options,
    ]  # fmt: skip
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, preexec_fn=usual_umask)
    try:
        _wait_until_ready(process)
        cluster = LocalCluster(directory, process)
        try:
            yield cluster
        except BaseException:
            print(cluster.log_ends())  # pytest shows it with the failure
            raise
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0
    finally:
        if process.poll() is None:
            process.terminate()
            process.wait(60)
        assert process.stdout is not None
        process.stdout.close()


def _wait_until_ready(process: "subprocess.Popen[str]") -> None:
    assert process.stdout is not None
    os.set_blocking(process.stdout.fileno(), True)
    printed = []
    for line in process.stdout:
        printed.append(line)
        if line.strip() == "ready":
            return
    raise AssertionError(f"sixfold up ended with {process.wait()}:\n{''.join(printed)}")

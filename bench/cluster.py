"""A cluster of its own for a measurement, as processes, and what they cost."""

import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

READY = "ready"
STOP_S = 60
_SCHED = 2  # CPUCLOCK_SCHED of Linux: all the time that its threads have run, those that ended too


@dataclass(frozen=True, slots=True)
class Servers:
    """What is measured: a URL and the processes behind it."""

    url: str
    pids: Mapping[str, int]

    def cpu_s(self) -> float:
        """CPU seconds, user and system, of all processes since they began."""
        return sum(self.cpu_s_by_process().values())

    def cpu_s_by_process(self) -> dict[str, float]:
        """Of each with its children."""
        return {
            name: _cpu_s(pid) + sum(map(_cpu_s, _children(pid))) for name, pid in self.pids.items()
        }

    def peak_rss_bytes(self) -> dict[str, int]:
        """The most memory that each process ever had resident."""
        return {name: _status_bytes(pid, "VmHWM") for name, pid in self.pids.items()}

    def without(self, names: Sequence[str]) -> "Servers":
        left = {name: pid for name, pid in self.pids.items() if name not in names}
        return Servers(self.url, left)


def _children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def _cpu_s(pid: int) -> float:
    """By the process's own clock. What /proc has is counted in ticks of 10 ms, of which a node may
    get none although it works."""
    return time.clock_gettime(~pid << 3 | _SCHED)  # clock_getcpuclockid(3) gives the same


def _status_bytes(pid: int, field: str) -> int:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(field):
            return int(line.split()[1]) * 1024
    raise LookupError(field)


@contextmanager
def local_cluster(
    directory: Path, nodes: int = 9, arguments: Sequence[str] = ()
) -> Iterator[Servers]:
    """Runs `sixfold up` while the block does."""
    command = [sys.executable, "-m", "sixfold", "up", "--nodes", str(nodes)]
    command += ["--dir", str(directory), "--port", "0", *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            if READY not in (line.strip() for line in process.stdout):
                raise SystemExit(f"sixfold up ended with {process.wait()}")
            described = json.loads((directory / "cluster.json").read_text())
            pids = {entry["name"]: int(entry["pid"]) for entry in described["processes"]}
            yield Servers(described["url"], pids)
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(STOP_S)


def kill_nodes(directory: Path, names: Sequence[str]) -> None:
    """`sixfold local kill`."""
    command = [sys.executable, "-m", "sixfold", "local", "kill", *names, "--dir", str(directory)]
    subprocess.run(command, check=True, capture_output=True)


@contextmanager
def floor_server(directory: Path) -> Iterator[Servers]:
    """Runs `bench.floor` while the block does."""
    command = [sys.executable, "-m", "bench.floor", "--dir", str(directory)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            url = process.stdout.readline().strip()
            if not url:
                raise SystemExit(f"the floor ended with {process.wait()}")
            yield Servers(url, {"floor": process.pid})
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(STOP_S)

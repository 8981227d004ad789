"""Server processes on this machine: start, recognise, signal, watch. Linux: it reads /proc."""

import asyncio
import os
import re
import signal
import subprocess
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path

from common.errors import (
    BadSetting,
    Conflict,
    Corrupt,
    SixfoldError,
    StorageFull,
    Unauthorized,
    Unavailable,
)
from sixfold.local import PRIVATE_FILE, ServerProcess
from sixfold.servers import server_environment

POLL_S = 0.05
START_S = 60.0
STOP_S = 15.0  # the coordinator gives its last requests 10 s
TELL_S = 1.0  # of waiting without a word
LAST_LINES = 10
ENDINGS: dict[int, type[SixfoldError]] = {
    kind.exit_code: kind for kind in (BadSetting, Unauthorized, Conflict, Corrupt, StorageFull)
}


def arguments_of(pid: int) -> list[str]:
    """The command line of a process; empty if it has ended, also if nobody has reaped it yet."""
    try:
        data = Path(f"/proc/{pid}/cmdline").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return []
    return [os.fsdecode(argument) for argument in data.split(b"\0")]


def runs(process: ServerProcess) -> bool:
    """Its pid is in use, and not by something else that came later."""
    return ("--data", process.data) in pairwise(arguments_of(process.pid))


def state_of(process: ServerProcess) -> str:
    """`running`, `paused` or `gone`."""
    if not runs(process):
        return "gone"
    try:
        status = Path(f"/proc/{process.pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return "gone"
    letter = status.rpartition(")")[2].split()[0]  # the name before it may hold anything
    return "paused" if letter in "Tt" else "running"


def send(process: ServerProcess, number: signal.Signals) -> bool:
    """Whether it was there to be signalled. The pid cannot change hands between look and shot."""
    with suppress(ProcessLookupError):
        descriptor = os.pidfd_open(process.pid)
        try:
            if runs(process):
                signal.pidfd_send_signal(descriptor, number)
                return True
        finally:
            os.close(descriptor)
    return False


def servers_in(directory: Path) -> list[ServerProcess]:
    """Every server on this machine whose data lies in `directory`, recorded anywhere or not."""
    found = []
    for pid in (int(path.name) for path in Path("/proc").glob("[0-9]*")):
        arguments = arguments_of(pid)
        for before, data in pairwise(arguments):
            if before == "--data" and Path(data).parent == directory:
                name = Path(data).name
                role = "coordinator" if name == "coordinator" else "shardd"
                found.append(ServerProcess(role, name, pid, "", data, "", arguments))
    return found


async def until(is_so: Callable[[], bool], deadline_s: float) -> bool:
    """Waits for it. False if it is still not so at the deadline."""
    end_s = time.monotonic() + deadline_s
    while not is_so():
        if time.monotonic() > end_s:
            return False
        await asyncio.sleep(POLL_S)
    return True


async def stop_all(
    processes: Iterable[ServerProcess],
    is_cut: Callable[[], bool] = lambda: False,
    tell: Callable[[str], None] = lambda text: None,
) -> None:
    """The coordinator first: while it ends, its last requests still need the nodes.

    Once `is_cut`, what still runs is killed. `tell` gets what a longer wait is for.
    """
    processes = list(processes)
    for process in processes:
        send(process, signal.SIGCONT)  # a paused process would not see what follows
    for role in ("coordinator", "shardd"):
        await _stop([process for process in processes if process.role == role], is_cut, tell)


async def _stop(
    processes: list[ServerProcess], is_cut: Callable[[], bool], tell: Callable[[str], None]
) -> None:
    def left() -> list[ServerProcess]:
        return [process for process in processes if runs(process)]

    for process in processes:
        send(process, signal.SIGTERM)
    if not await until(lambda: is_cut() or not left(), min(TELL_S, STOP_S)):
        them = "it" if len(left()) == 1 else "them"
        tell(
            f"waiting up to {STOP_S:.0f} s for {_names(left())} to finish; "
            f"Ctrl-C again ends {them} at once"
        )
        await until(lambda: is_cut() or not left(), STOP_S - TELL_S)
    if killed := [process for process in left() if send(process, signal.SIGKILL)]:
        tell(f"killed {_names(killed)}")
        await until(lambda: not left(), STOP_S)


def _names(processes: list[ServerProcess]) -> str:
    return ", ".join(process.name for process in processes)


@dataclass(slots=True)
class StartedServer:
    """A server since its start, with the place in its log where its own output begins."""

    process: ServerProcess
    child: "subprocess.Popen[bytes]"
    log_offset: int

    def __str__(self) -> str:
        return self.process.name

    def ready(self) -> bool:
        """Whether it serves; then `process.url` is known. Raises as `_ended` says."""
        return self._has_said("ready")

    def listening(self) -> bool:
        """Whether it answers probes, for a node before it has joined. The rest as `ready`."""
        return self._has_said("listening")

    def _has_said(self, word: str) -> bool:
        if self.child.poll() is not None:
            raise self._ended()
        found = re.search(rf"^(?:.* )?{word} http=(\S+)", self._output(), re.MULTILINE)
        if found:
            self.process = replace(self.process, url=found[1])
        return found is not None

    def _ended(self) -> SixfoldError:
        """With the reason that it gave, if it gave one, and of the kind that its exit code says."""
        code, what = self.child.returncode, ending(self.child.returncode)
        if not (reason := self._reason()):
            return self.failure(what)
        kind = ENDINGS.get(code, Unavailable)
        return kind(f"{self.process.name} {what}: {reason}; see {self.process.log}")

    def _reason(self) -> str:
        """Why it ended, in its own words; empty if it gave none."""
        last_line = (self._output().splitlines() or [""])[-1]
        program, _, reason = last_line.partition(": ")
        return reason if program == self.process.role else ""

    def end(self) -> str | None:
        """In words, how and why it ended; None while it runs."""
        if self.child.poll() is None:
            return None
        what, reason = ending(self.child.returncode), self._reason()
        return f"{what}: {reason}" if reason else what

    def failure(self, what: str) -> SixfoldError:
        """With the end of the log, which knows more."""
        lines = self._output().splitlines()[-LAST_LINES:]
        shown = "".join(f"\n    {line}" for line in lines)
        return Unavailable(f"{self.process.name} {what}; from {self.process.log}:{shown}")

    def _output(self) -> str:
        with Path(self.process.log).open("rb") as file:
            file.seek(self.log_offset)
            return file.read().decode(errors="replace")


def start_server(process: ServerProcess) -> StartedServer:
    """In a session of its own: a Ctrl-C on the terminal is for `sixfold up` to act upon."""
    Path(process.log).touch(PRIVATE_FILE)
    with Path(process.log).open("ab") as log:
        log_offset = log.seek(0, os.SEEK_END)
        child = subprocess.Popen(
            process.argv,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
            env=server_environment(),
        )
    started = replace(process, pid=child.pid)
    while child.poll() is None and not runs(started):
        time.sleep(0.001)  # for an instant after exec, /proc shows no arguments yet
    return StartedServer(started, child, log_offset)


async def until_ready(servers: list[StartedServer]) -> None:
    """Raises Unavailable at once for one that ends, and for one that is not ready in time."""

    def late() -> list[StartedServer]:
        return [server for server in servers if not server.ready()]

    if not await until(lambda: not late(), START_S):
        raise late()[0].failure(f"was not ready after {START_S:.0f} s")


def ending(returncode: int) -> str:
    if returncode < 0:
        return f"was ended by {signal.Signals(-returncode).name}"
    return f"ended with exit code {returncode}"

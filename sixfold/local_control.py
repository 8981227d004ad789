"""`sixfold local …`: acts on the processes of a local cluster, so that anyone can try failures."""

import os
import signal
from contextlib import suppress
from dataclasses import dataclass

from common.errors import Conflict, Unavailable
from sixfold.local import LocalDirectory, ServerProcess
from sixfold.processes import (
    STOP_S,
    runs,
    send,
    servers_in,
    start_server,
    state_of,
    stop_all,
    until,
    until_ready,
)

UP_STOP_S = 3 * STOP_S  # it stops the coordinator, then the nodes, each within STOP_S


@dataclass(frozen=True, slots=True)
class Action:
    """A signal, and the state that it leads to."""

    number: signal.Signals
    state: str


KILL = Action(signal.SIGKILL, "gone")
PAUSE = Action(signal.SIGSTOP, "paused")
RESUME = Action(signal.SIGCONT, "running")


async def act(directory: LocalDirectory, name: str, action: Action) -> ServerProcess:
    """Returns when the process is in the state that the action leads to, or was before.

    Raises NotFound for an unknown name, Conflict for a process that is gone.
    """
    process = directory.read().find(name)
    if not runs(process) and action is not KILL:
        raise Conflict(f"{process.name} is not running")
    family = [process, *_workers_of(directory, process)]  # in this order: it would replace them
    for member in family:
        if state_of(member) != action.state:
            send(member, action.number)
    if not await until(lambda: all(state_of(m) in (action.state, "gone") for m in family), STOP_S):
        raise Unavailable(f"{process.name} (pid {process.pid}) is {state_of(process)} still")
    return process


def _workers_of(directory: LocalDirectory, process: ServerProcess) -> list[ServerProcess]:
    """The other processes that serve the same data."""
    found = servers_in(directory.path)
    return [other for other in found if other.name == process.name and other.pid != process.pid]


async def start(directory: LocalDirectory, name: str) -> ServerProcess:
    """Start a process again as `sixfold up` did; returns when it serves.

    Raises Conflict if it runs, or if no `sixfold up` is there to end it one day.
    """
    with directory.editing():
        cluster = directory.read()
        process = cluster.find(name)
        _check_startable(directory, process)
        server = start_server(process)
        directory.write(cluster.with_process(server.process))
    try:
        await until_ready([server])
    except BaseException:
        server.child.kill()
        raise
    with directory.editing():
        directory.write(directory.read().with_process(server.process))
    return server.process


def _check_startable(directory: LocalDirectory, process: ServerProcess) -> None:
    state = state_of(process)
    if state == "paused":
        raise Conflict(f"{process.name} is paused: sixfold local resume {process.name}")
    if state == "running":
        raise Conflict(f"{process.name} (pid {process.pid}) is running")
    if directory.owner_pid() is None:
        raise Conflict(f"no sixfold up runs in {directory.path}: start that instead")


async def stop(directory: LocalDirectory) -> list[str]:
    """End a local cluster: the `sixfold up` that runs it, or what one that was killed left
    behind. Returns the names of the processes that ran."""
    ran = list(dict.fromkeys(process.name for process in servers_in(directory.path)))
    owner = directory.owner_pid()
    if owner is None:
        await stop_all(servers_in(directory.path))
        directory.cluster_json.unlink(missing_ok=True)
        return ran
    with suppress(ProcessLookupError):
        os.kill(owner, signal.SIGTERM)
    if not await until(lambda: directory.owner_pid() != owner, UP_STOP_S):
        raise Unavailable(f"sixfold up (pid {owner}) did not end within {UP_STOP_S:.0f} s")
    return ran

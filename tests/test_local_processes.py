"""The parts of a local cluster, on processes that only look like servers."""

import json
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from common.errors import (
    BadRequest,
    BadSetting,
    Conflict,
    NotFound,
    SixfoldError,
    Unauthorized,
    Unavailable,
)
from sixfold.local import LocalDirectory, ServerProcess
from sixfold.local_control import KILL, PAUSE, RESUME, act
from sixfold.processes import (
    StartedServer,
    runs,
    send,
    servers_in,
    start_server,
    state_of,
    stop_all,
    until_ready,
)
from tests.pretended import READY, SLEEP, describe, directory_in, pretended

DEAF = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); "

Start = Callable[[str, str], StartedServer]


@pytest.fixture
def directory(tmp_path: Path) -> LocalDirectory:
    return directory_in(tmp_path)


@pytest.fixture
def start(directory: LocalDirectory) -> Iterator[Start]:
    """Starts `python -c code` under a name; whatever it becomes, it is gone after the test."""
    started: list[StartedServer] = []

    def start(name: str, code: str) -> StartedServer:
        started.append(start_server(pretended(directory, name, code)))
        return started[-1]

    yield start
    for server in started:
        server.child.kill()
        server.child.wait()


async def test_ready_line_gives_the_url(start: Start) -> None:
    server = start("node-1", f"print('chatter'); {READY}{SLEEP}")
    await until_ready([server])
    assert server.process.url == "http://127.0.0.1:1"


async def test_early_end_is_told_with_the_log(start: Start, directory: LocalDirectory) -> None:
    directory.log("node-1").write_text("of an earlier run\n")
    server = start("node-1", "import sys; sys.exit('shardd: no room')")
    with pytest.raises(Unavailable, match=r"node-1 ended with exit code 1") as caught:
        await until_ready([server])
    assert "no room" in str(caught.value)
    assert "earlier" not in str(caught.value)


@pytest.mark.parametrize(
    ("code", "kind"), [(2, BadRequest), (4, Unauthorized), (5, Conflict), (8, Unavailable)]
)
async def test_an_end_with_a_reason_keeps_its_kind(
    start: Start, code: int, kind: type[SixfoldError]
) -> None:
    server = start("node-1", f"import sys; print('x\\nshardd: this is why'); sys.exit({code})")
    with pytest.raises(kind, match=f"^node-1 ended with exit code {code}: this is why; see "):
        await until_ready([server])


async def test_kill_pause_resume(start: Start, directory: LocalDirectory) -> None:
    server = start("node-3", READY + SLEEP)
    await until_ready([server])
    describe(directory, server.process)
    for action, state in ((PAUSE, "paused"), (PAUSE, "paused"), (RESUME, "running")):
        await act(directory, "3", action)
        assert state_of(server.process) == state
    await act(directory, "node-3", PAUSE)
    await act(directory, "node-3", KILL)  # a paused process dies as well
    assert state_of(server.process) == "gone"
    await act(directory, "node-3", KILL)
    with pytest.raises(Conflict, match="node-3 is not running"):
        await act(directory, "node-3", PAUSE)


async def test_unknown_names(start: Start, directory: LocalDirectory) -> None:
    with pytest.raises(NotFound, match="no local cluster"):
        await act(directory, "node-1", KILL)
    describe(directory, start("node-3", SLEEP).process)
    with pytest.raises(NotFound, match="there are node-3"):
        await act(directory, "4", KILL)


def test_a_pid_that_changed_hands_is_left_alone(directory: LocalDirectory) -> None:
    with subprocess.Popen([sys.executable, "-c", SLEEP]) as stranger:
        data = str(directory.data("node-1"))
        process = ServerProcess("shardd", "node-1", stranger.pid, "", data, "", [])
        assert not runs(process)
        assert state_of(process) == "gone"
        assert not send(process, signal.SIGKILL)
        assert stranger.poll() is None
        stranger.kill()


async def test_stop_ends_the_paused_and_the_deaf(
    start: Start, directory: LocalDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sixfold.processes.STOP_S", 0.3)  # the deaf one is killed after that
    deaf, paused = start("node-1", DEAF + READY + SLEEP), start("node-2", READY + SLEEP)
    await until_ready([deaf, paused])
    send(paused.process, signal.SIGSTOP)
    await stop_all(servers_in(directory.path))
    assert deaf.child.wait() == -signal.SIGKILL
    assert paused.child.wait() == -signal.SIGTERM
    assert servers_in(directory.path) == []


async def test_a_stop_can_be_cut_short(
    start: Start, directory: LocalDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sixfold.processes.TELL_S", 0.0)
    monkeypatch.setattr("sixfold.processes.STOP_S", 3600.0)
    deaf = start("node-1", DEAF + READY + SLEEP)
    await until_ready([deaf])
    told: list[str] = []
    await stop_all(servers_in(directory.path), is_cut=lambda: bool(told), tell=told.append)
    assert deaf.child.wait() == -signal.SIGKILL
    assert told == [
        "waiting up to 3600 s for node-1 to finish; Ctrl-C again ends it at once",
        "killed node-1",
    ]


def test_servers_are_found_without_a_record(start: Start, directory: LocalDirectory) -> None:
    pid = start("node-7", SLEEP).process.pid
    assert [(found.name, found.pid) for found in servers_in(directory.path)] == [("node-7", pid)]
    assert servers_in(directory.path / "node-7") == []


def test_secret_is_made_once_and_private(directory: LocalDirectory) -> None:
    secret = directory.secret.read_text()
    assert len(bytes.fromhex(secret.strip())) == 32
    assert directory.secret.stat().st_mode & 0o777 == 0o600
    directory.fill()
    assert directory.secret.read_text() == secret


def test_one_owner_at_a_time(directory: LocalDirectory) -> None:
    assert directory.owner_pid() is None
    with directory.owned():
        assert directory.owner_pid() is not None
        with pytest.raises(Conflict, match="runs in"), LocalDirectory(directory.path).owned():
            raise AssertionError("owned twice")
    assert directory.owner_pid() is None


def test_cluster_json_that_is_something_else(directory: LocalDirectory) -> None:
    for text in ("", "{}", '{"processes": [{}]}', json.dumps([1])):
        directory.cluster_json.write_text(text)
        with pytest.raises(BadSetting, match="not what sixfold up writes"):
            directory.read()


def test_node_numbers(directory: LocalDirectory) -> None:
    for name in ("node-12", "node-2", "node-x", "coordinator"):
        directory.data(name).mkdir()
    assert directory.node_numbers() == [2, 12]

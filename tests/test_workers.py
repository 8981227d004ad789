"""Several coordinator processes on one port, with real processes: all serve, all know the nodes,
one that dies is replaced, and none outlives its supervisor."""

import http.client
import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from blake3 import blake3

from common.auth import HEADER, ClusterSecret
from common.membership import REPORT_PATH
from common.settings import as_flags
from coordinator import supervisor
from coordinator.__main__ import read_config
from coordinator.config import Config
from coordinator.supervisor import WORKER_FLAG
from sixfold.processes import arguments_of, servers_in, state_of
from tests.local_cluster import LocalCluster, local_cluster, run_sixfold
from tests.reports import report_of

NODES = 3
DEADLINE_S = 60.0
ESTABLISHED = "01"


def until(is_so: Callable[[], bool]) -> None:
    end_s = time.monotonic() + DEADLINE_S
    while not is_so():
        assert time.monotonic() < end_s
        time.sleep(0.02)


def workers_of(supervisor: int) -> list[int]:
    """The pids of its workers."""
    children = Path(f"/proc/{supervisor}/task/{supervisor}/children").read_text().split()
    return list(filter(is_worker, map(int, children)))


def is_worker(pid: int) -> bool:
    """Whether it runs; a pid that something else has by now does not count."""
    return WORKER_FLAG in arguments_of(pid)


def worker_at(connection: http.client.HTTPConnection, workers: list[int]) -> int | None:
    """The worker at the other end of a connection on which it has answered."""
    ours = f":{connection.sock.getsockname()[1]:04X}"
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        _, _, peer, state, *rest = line.split()
        if peer.endswith(ours) and state == ESTABLISHED:
            inode = rest[5]
            return next((pid for pid in workers if f"socket:[{inode}]" in files_of(pid)), None)
    return None


def files_of(pid: int) -> list[str]:
    names = []
    with suppress(FileNotFoundError):
        for path in Path(f"/proc/{pid}/fd").iterdir():
            with suppress(FileNotFoundError):
                names.append(str(path.readlink()))
    return names


@contextmanager
def connections(url: str, supervisor: int, count: int = 2) -> Iterator[list["Worker"]]:
    """A connection to each of the workers: the kernel deals connections out, so more and more of
    them are opened until every worker has one."""
    with ExitStack() as stack:
        found: dict[int, Worker] = {}

        def each_has_one() -> bool:
            connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=DEADLINE_S)
            stack.callback(connection.close)
            with suppress(OSError):  # of a worker that has just been killed
                connection.connect()
                connection.auto_open = 0  # never to another worker
                worker = Worker(connection)
                assert worker.get("/-/live") == (200, {"live": True})
                pid = worker_at(connection, workers_of(supervisor))
                if pid is not None:
                    found.setdefault(pid, worker)
            return len(found.keys() & set(workers_of(supervisor))) == count

        until(each_has_one)
        yield [found[pid] for pid in workers_of(supervisor)]


class Worker:
    """A connection to one worker, which answers all that is asked on it."""

    def __init__(self, connection: http.client.HTTPConnection) -> None:
        self._connection = connection

    def ask(
        self,
        method: str,
        path: str,
        body: bytes | None = None,
        headers: dict[str, str] | None = None,
    ) -> tuple[int, bytes]:
        self._connection.request(method, path, body, headers or {})
        answer = self._connection.getresponse()
        return answer.status, answer.read()

    def get(self, path: str) -> tuple[int, Any]:
        status, body = self.ask("GET", path)
        return status, json.loads(body)

    def put(self, data: bytes) -> str:
        status, body = self.ask("PUT", "/v1/blobs", data)
        assert status == 201, body
        id_: str = json.loads(body)["id"]
        return id_

    def active_nodes(self) -> int:
        active: int = self.get("/-/ready")[1]["nodes_active"]
        return active

    def knows_every_node(self) -> bool:
        return self.active_nodes() == NODES

    def has(self, data: bytes) -> bool:
        return self.ask("GET", f"/v1/blobs/{blake3(data).hexdigest()}") == (200, data)


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalCluster]:
    with local_cluster(tmp_path_factory.mktemp("two"), NODES, "--workers", "2") as running:
        yield running


def test_both_know_every_node_and_read_what_the_other_wrote(cluster: LocalCluster) -> None:
    with connections(cluster.url, cluster.pid("coordinator")) as workers:
        for worker in workers:
            until(worker.knows_every_node)
        for size in (1000, 300_000, 7_000_000):
            contents = [os.urandom(size) for _ in workers]
            for worker, data in zip(workers, contents, strict=True):
                assert worker.put(data) == blake3(data).hexdigest()
            assert all(worker.has(data) for worker in workers for data in contents)


def test_a_replayed_report_is_refused_by_the_other(cluster: LocalCluster) -> None:
    secret = ClusterSecret((cluster.directory / "secret").read_bytes().strip())
    body = report_of(77, name="captured", data_port=9).to_json()
    signature = secret.sign("POST", REPORT_PATH, body, time.time(), secrets.token_hex(16))
    with connections(cluster.url, cluster.pid("coordinator")) as workers:
        answers = [w.ask("POST", REPORT_PATH, body, {HEADER: signature}) for w in workers]
    assert [status for status, _ in answers] == [200, 401]
    assert b"replay" in answers[1][1]


def test_a_worker_that_is_killed_is_replaced(cluster: LocalCluster) -> None:
    supervisor, data = cluster.pid("coordinator"), os.urandom(100_000)
    with connections(cluster.url, supervisor) as workers:
        before = workers_of(supervisor)
        workers[0].put(data)
        os.kill(before[0], signal.SIGKILL)
        assert workers[1].has(data)  # the other goes on
        assert workers[1].put(os.urandom(100))
    until(lambda: len(set(workers_of(supervisor)) - {before[0]}) == 2)
    with connections(cluster.url, supervisor) as workers:
        for worker in workers:
            until(worker.knows_every_node)
            assert worker.has(data)
    assert before[1] in workers_of(supervisor)


def test_kill_and_start_of_the_whole_coordinator(cluster: LocalCluster) -> None:
    old = workers_of(cluster.pid("coordinator"))
    cluster.local("pause", "coordinator")
    family = [one for one in servers_in(cluster.directory) if one.name == "coordinator"]
    assert [state_of(process) for process in family] == ["paused"] * 3
    cluster.local("resume", "coordinator")
    assert [state_of(process) for process in family] == ["running"] * 3
    cluster.local("pause", "coordinator")  # so that it cannot end by itself
    cluster.local("kill", "coordinator")
    assert not any(map(is_worker, old))
    cluster.local("start", "coordinator")  # on the port that it had
    with connections(cluster.url, cluster.pid("coordinator")) as workers:
        for worker in workers:
            until(worker.knows_every_node)


def test_up_ends_all_of_them(tmp_path: Path) -> None:
    with local_cluster(tmp_path, NODES, "--workers", "2") as cluster:
        assert len(workers_of(cluster.pid("coordinator"))) == 2
    assert servers_in(tmp_path) == []


def test_local_stop_names_the_coordinator_once(tmp_path: Path) -> None:
    with local_cluster(tmp_path, NODES, "--workers", "3") as cluster:
        stopped = json.loads(run_sixfold("local", "stop", "--json", "--dir", str(tmp_path)))
        assert sorted(stopped["ended"]) == ["coordinator", "node-1", "node-2", "node-3"]
        assert cluster.process.wait() == 0


# The supervisor alone


@contextmanager
def coordinator(tmp_path: Path, *options: str) -> Iterator["subprocess.Popen[str]"]:
    """`python -m coordinator`, killed at the end if it still runs."""
    (tmp_path / "secret").write_text("s" * 32)
    command = [
        sys.executable, "-m", "coordinator", "--data", str(tmp_path / "coordinator"),
        "--secret-file", str(tmp_path / "secret"), *options,
    ]  # fmt: skip
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            yield process
        finally:
            process.kill()
            until(lambda: servers_in(tmp_path) == [])


def url_of(process: "subprocess.Popen[str]") -> str:
    assert process.stdout is not None
    line = process.stdout.readline()
    assert line.startswith("ready http="), line
    return line.removeprefix("ready http=").strip()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_to_the_supervisor_ends_all(tmp_path: Path, number: signal.Signals) -> None:
    with coordinator(tmp_path, "--port", "0", "--workers", "2") as process:
        url_of(process)
        workers = workers_of(process.pid)
        assert len(workers) == 2
        process.send_signal(number)
        rest, _ = process.communicate(timeout=DEADLINE_S)
        assert (process.returncode, rest) == (0, "")
        assert not any(map(is_worker, workers))


def test_workers_end_when_their_supervisor_is_killed(tmp_path: Path) -> None:
    with coordinator(tmp_path, "--port", "0", "--workers", "2") as process:
        url_of(process)
        workers = workers_of(process.pid)
        process.kill()
        until(lambda: not any(map(is_worker, workers)))


@pytest.mark.parametrize("first", ["1", "2"])
@pytest.mark.parametrize("second", ["1", "2"])
def test_a_second_coordinator_on_the_port_is_refused(
    tmp_path: Path, first: str, second: str
) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    with coordinator(tmp_path / "a", "--port", "0", "--workers", first) as running:
        port = str(urlsplit(url_of(running)).port)
        with coordinator(tmp_path / "b", "--port", port, "--workers", second) as refused:
            out, said = refused.communicate(timeout=DEADLINE_S)
        assert (refused.returncode, out) == (5, "")
        assert "in use" in said.splitlines()[-1]


def test_a_port_stays_ours_while_no_worker_listens(tmp_path: Path) -> None:
    with coordinator(tmp_path, "--port", "0", "--workers", "2") as process:
        port = urlsplit(url_of(process)).port
        process.send_signal(signal.SIGSTOP)  # it starts no others
        assert len(workers_of(process.pid)) == 2
        for pid in workers_of(process.pid):
            os.kill(pid, signal.SIGKILL)
        until(lambda: not workers_of(process.pid))
        with socket.socket() as stranger, pytest.raises(OSError, match="in use"):
            stranger.bind(("127.0.0.1", port))


def test_what_stops_a_worker_from_starting_is_told_once(tmp_path: Path) -> None:
    with coordinator(tmp_path, "--port", "0", "--workers", "3", "--database", "magic") as process:
        out, said = process.communicate(timeout=DEADLINE_S)
    assert (process.returncode, out) == (2, "")
    assert said.count("'magic'") == 1


def test_workers_get_the_settings_that_the_supervisor_read() -> None:
    config = read_config(
        ["--data", "d", "--secret-file", "s", "--host", "::", "--allow-unauthenticated",
         "--buffer-bytes", "200MiB", "--body-idle-s", "0.5"]
    )  # fmt: skip
    assert read_config(as_flags(config)) == config


async def test_a_worker_that_never_gets_ready_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervisor, "READY_S", 0.2)
    worker = supervisor.Worker(1, Config(data="unused", secret_file="unused"))
    worker._command = [sys.executable, "-c", "input()"]  # it waits for what is never said
    assert not await worker.start()
    assert worker.exit_code == 1

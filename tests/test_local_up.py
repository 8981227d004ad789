"""`sixfold up` and `sixfold local` with real servers: a cluster that loses nodes and gets them
back, comes again with its data, and refuses to run twice."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from blake3 import blake3

from sixfold.processes import servers_in
from tests.local_cluster import LocalCluster, local_cluster, run_sixfold, sixfold
from tests.private_files import open_to_others

UP = (sys.executable, "-m", "sixfold", "up", "--port", "0")
DATA = bytes(range(256)) * 30_000


def statuses(directory: Path) -> dict[str, str]:
    lines = run_sixfold("local", "status", "--json", "--dir", str(directory)).splitlines()
    return {said["name"]: said["state"] for said in map(json.loads, lines)}


@contextmanager
def whatever_is_left_ends(directory: Path) -> Iterator[None]:
    try:
        yield
    finally:
        for process in servers_in(directory):
            os.kill(process.pid, signal.SIGKILL)


def put(cluster: LocalCluster, file: Path) -> str:
    return run_sixfold("put", str(file), "--url", cluster.url).split()[0]


def check_back(cluster: LocalCluster, id_: str, file: Path) -> None:
    run_sixfold("get", id_, "-o", str(file), "--url", cluster.url)
    assert file.read_bytes() == DATA


def test_up_describes_what_it_runs(cluster: LocalCluster) -> None:
    said = cluster.described()
    names = [process["name"] for process in said["processes"]]
    assert names == ["coordinator", *(f"node-{number}" for number in range(1, 10))]
    for process in said["processes"]:
        assert process["data"] == str(cluster.directory / process["name"])
        assert process["url"].startswith("http://127.0.0.1:")
        os.kill(process["pid"], 0)
    assert set(statuses(cluster.directory).values()) == {"running"}


def test_what_it_writes_is_for_its_user_alone(cluster: LocalCluster) -> None:
    assert (cluster.directory / "node-1" / "index.db").exists()
    assert open_to_others(cluster.directory) == []


def test_command_against_the_real_thing(cluster: LocalCluster, tmp_path: Path) -> None:
    (tmp_path / "film").write_bytes(DATA)
    url = ["--url", cluster.url]
    said = json.loads(run_sixfold("put", "--json", str(tmp_path / "film"), *url))
    assert said["id"] == blake3(DATA).hexdigest()
    check_back(cluster, said["id"], tmp_path / "back")
    stat = json.loads(run_sixfold("stat", "--json", said["id"], *url))
    assert stat["size_bytes"] == len(DATA)
    assert stat["durability"] == said["durability"]
    assert run_sixfold("rm", said["id"], *url) == f"deleted {said['id']}\n"
    gone = sixfold("get", said["id"], "-o", str(tmp_path / "gone"), *url)
    assert (gone.returncode, gone.stderr.count("\n")) == (3, 1)
    assert not (tmp_path / "gone").exists()


def test_life_of_a_cluster(tmp_path: Path) -> None:
    directory, film = tmp_path / "cluster", tmp_path / "film"
    film.write_bytes(DATA)
    with whatever_is_left_ends(directory):
        with local_cluster(directory, 9) as cluster:
            id_ = put(cluster, film)
            lose_and_start_again(cluster, id_, tmp_path)
            assert_second_up_is_refused(directory)
        assert servers_in(directory) == []
        assert not (directory / "cluster.json").exists()
        with local_cluster(directory, 10) as cluster:  # the same data, and one node more
            check_back(cluster, id_, tmp_path / "back")
            assert sorted(cluster.nodes()) == sorted(f"node-{n}" for n in range(1, 11))


def lose_and_start_again(cluster: LocalCluster, id_: str, scratch: Path) -> None:
    directory = cluster.directory
    cluster.local("kill", "1", "node-2")
    cluster.local("pause", "9")
    lost = {name: state for name, state in statuses(directory).items() if state != "running"}
    assert lost == {"node-1": "gone", "node-2": "gone", "node-9": "paused"}
    check_back(cluster, id_, scratch / "back")
    cluster.local("start", "1")
    cluster.local("resume", "9")
    cluster.wait_for("active", "node-1", "node-9")
    cluster.local("kill", "coordinator")
    cluster.local("start", "coordinator")  # on the port that it had, though `up` took a free one
    cluster.wait_for("active", "node-1", "node-3", "node-9")
    check_back(cluster, id_, scratch / "back")
    refused = sixfold("local", "start", "1", "2", "--dir", str(directory))
    assert refused.returncode == 5  # for node-1, which runs; node-2 was started nevertheless
    assert set(statuses(directory).values()) == {"running"}
    cluster.local("pause", "4", "node-1")  # `up` must end paused and replaced processes too


def assert_second_up_is_refused(directory: Path) -> None:
    second = sixfold("up", "--dir", str(directory), "--port", "0")
    assert second.returncode == 5
    assert "runs in" in second.stderr


def test_what_a_killed_up_left_behind(tmp_path: Path) -> None:
    with whatever_is_left_ends(tmp_path):
        kill_a_running_up(tmp_path)
        assert statuses(tmp_path)["node-2"] == "running"
        again = sixfold("up", "--dir", str(tmp_path), "--port", "0")
        assert again.returncode == 5
        assert f"sixfold local stop --dir {tmp_path}" in again.stderr
        stopped = json.loads(run_sixfold("local", "stop", "--json", "--dir", str(tmp_path)))
        assert len(stopped["ended"]) == 4
        assert servers_in(tmp_path) == []


def kill_a_running_up(directory: Path) -> None:
    command = [*UP, "--nodes", "3", "--dir", str(directory)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as up:
        assert up.stdout is not None
        assert "ready\n" in iter(up.stdout.readline, "")
        up.kill()


def test_a_failure_comes_with_the_logs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ZeroDivisionError), local_cluster(tmp_path, 3):
        raise ZeroDivisionError
    printed = capsys.readouterr().out.splitlines()
    for name in ("coordinator", "node-1", "node-2", "node-3"):
        assert not printed[printed.index(f"--- {name}.log") + 1].startswith("---")


def test_local_stop_ends_up(tmp_path: Path) -> None:
    with whatever_is_left_ends(tmp_path), local_cluster(tmp_path, 3) as cluster:
        run_sixfold("local", "stop", "--dir", str(tmp_path))
        assert cluster.process.wait() == 0
        assert servers_in(tmp_path) == []


def test_ctrl_c_while_starting(tmp_path: Path) -> None:
    command = [*UP, "--dir", str(tmp_path)]
    with whatever_is_left_ends(tmp_path):
        with subprocess.Popen(command, stdout=subprocess.PIPE) as up:
            while not servers_in(tmp_path):
                assert up.poll() is None
            up.send_signal(signal.SIGINT)
            out, _ = up.communicate(timeout=60)
        assert (up.returncode, out) == (0, b"")
        assert servers_in(tmp_path) == []


def test_second_ctrl_c_does_not_wait_for_an_upload(tmp_path: Path) -> None:
    command = [*UP, "--nodes", "3", "--dir", str(tmp_path)]
    pipe = subprocess.PIPE
    with (
        whatever_is_left_ends(tmp_path),
        subprocess.Popen(command, text=True, stdout=pipe, stderr=pipe) as up,
    ):
        assert up.stdout is not None
        assert up.stderr is not None
        assert "ready\n" in iter(up.stdout.readline, "")
        with unfinished_upload(LocalCluster(tmp_path, up).url):
            up.send_signal(signal.SIGINT)
            waiting = up.stderr.readline()
            assert re.fullmatch(r"sixfold: waiting up to \d+ s for coordinator to .*\n", waiting)
            up.send_signal(signal.SIGTERM)
            assert up.stderr.readline() == "sixfold: killed coordinator\n"
            assert up.wait(60) == 0
        assert servers_in(tmp_path) == []


@contextmanager
def unfinished_upload(url: str) -> Iterator[None]:
    """The coordinator has taken its head, and waits for the rest."""
    address = urlsplit(url)
    assert address.hostname and address.port
    with socket.create_connection((address.hostname, address.port)) as upload:
        head = "PUT /v1/blobs HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n"
        upload.sendall(f"{head}Expect: 100-continue\r\n\r\n".encode())
        assert upload.recv(100).startswith(b"HTTP/1.1 100")
        yield


def test_port_in_use(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = sixfold("up", "--dir", str(tmp_path), "--port", str(port))
    assert done.returncode == 5
    assert (
        done.stderr == f"sixfold: port {port}: address already in use; choose another with --port\n"
    )


def test_a_server_that_cannot_start(tmp_path: Path) -> None:
    (tmp_path / "coordinator").mkdir()
    (tmp_path / "coordinator" / "metadata.db").mkdir()  # no database can be there
    done = sixfold("up", "--dir", str(tmp_path), "--port", "0")
    assert done.returncode == 2
    assert done.stderr.startswith("sixfold: coordinator ended with exit code 2: database ")
    assert servers_in(tmp_path) == []


def test_directories_of_nodes_that_changed_places(tmp_path: Path) -> None:
    with local_cluster(tmp_path, 3):
        pass
    (tmp_path / "node-1").rename(tmp_path / "other")
    (tmp_path / "node-2").rename(tmp_path / "node-1")
    (tmp_path / "other").rename(tmp_path / "node-2")
    done = sixfold("up", "--nodes", "3", "--dir", str(tmp_path), "--port", "0")
    assert done.returncode == 5
    assert re.fullmatch(
        rf"sixfold: (node-[12]) ended with exit code 5: {tmp_path}/\1 belongs to node "
        rf"'node-[12]', not '\1'; see {tmp_path}/logs/\1.log\n",
        done.stderr,
    )
    assert servers_in(tmp_path) == []


@pytest.mark.parametrize("below", ["", "/below"])
def test_a_directory_that_cannot_be_used(tmp_path: Path, below: str) -> None:
    (tmp_path / "file").touch()
    path = f"{tmp_path}/file{below}"
    done = sixfold("up", "--dir", path, "--port", "0")
    assert (done.returncode, done.stderr) == (2, f"sixfold: --dir {path}: Not a directory\n")
    for command in (["status"], ["kill", "1"], ["start", "1"]):
        done = sixfold("local", *command, "--dir", path)
        assert done.returncode == 3
        assert "no local cluster runs in" in done.stderr


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--port", "abc"], "'--port': not a number from 0 to 65535: 'abc'"),
        (["--port", "65536"], "'--port': not a number from 0 to 65535: '65536'"),
        (["--nodes", "2"], "'--nodes': not a number from 3 to 100: '2'"),
        (["--nodes", "101"], "'--nodes': not a number from 3 to 100: '101'"),
    ],
)
def test_numbers_that_are_none(tmp_path: Path, flags: list[str], words: str) -> None:
    done = sixfold("up", "--dir", str(tmp_path / "new"), *flags)
    assert (done.returncode, done.stderr) == (2, f"sixfold: Invalid value for {words}\n")
    assert not (tmp_path / "new").exists()

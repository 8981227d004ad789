"""`sixfold local start`: all at once, with a coordinator and without, and never an end for what
takes long."""

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import urlopen

import pytest

from sixfold.console import Console
from sixfold.local import LocalDirectory, ServerProcess
from sixfold.local_start import start_again
from sixfold.processes import servers_in, state_of
from tests.local_cluster import LocalCluster, local_cluster, sixfold
from tests.pretended import READY, SLEEP, describe, directory_in, pretended

# Python warns of a child that outlives its handle; here that is the purpose.
pytestmark = pytest.mark.filterwarnings("ignore:subprocess .* is still running:ResourceWarning")
LISTENS = "print('INFO listening http=http://127.0.0.1:2 data=x', flush=True); "


@pytest.fixture
def directory(tmp_path: Path) -> Iterator[LocalDirectory]:
    """As if a `sixfold up` ran in it."""
    directory = directory_in(tmp_path)
    with directory.owned():
        yield directory
    for process in servers_in(directory.path):
        os.kill(process.pid, signal.SIGKILL)


async def start(directory: LocalDirectory, *names: str) -> tuple[int, list[ServerProcess]]:
    """The exit code, and what was told to serve."""
    told: list[ServerProcess] = []
    return await start_again(directory, names, Console(), told.append), told


async def test_nodes_without_coordinator_stay(
    directory: LocalDirectory, capsys: pytest.CaptureFixture[str]
) -> None:
    nodes = [pretended(directory, f"node-{number}", LISTENS + SLEEP) for number in (1, 2)]
    describe(directory, pretended(directory, "coordinator", SLEEP), *nodes)
    code, told = await start(directory, "1", "node-2")
    assert code == 0
    assert [(process.name, process.url) for process in told] == [
        ("node-1", "http://127.0.0.1:2"),
        ("node-2", "http://127.0.0.1:2"),
    ]
    assert directory.read().processes[1:] == told
    assert [state_of(process) for process in told] == ["running", "running"]
    assert capsys.readouterr().err == (
        "sixfold: the coordinator is gone: node-1, node-2 will join when it is back "
        "(sixfold local start coordinator)\n"
    )


async def test_one_that_ends_does_not_keep_the_others(
    directory: LocalDirectory, capsys: pytest.CaptureFixture[str]
) -> None:
    describe(
        directory,
        pretended(directory, "coordinator", SLEEP),
        pretended(directory, "node-1", "import sys; sys.exit('shardd: no room')"),
        pretended(directory, "node-2", LISTENS + SLEEP),
    )
    code, told = await start(directory, "1", "2", "3")
    assert code == 3  # node-3, which does not exist, is the first error
    assert [process.name for process in told] == ["node-2"]
    said = capsys.readouterr().err
    assert "sixfold: node-1 ended with exit code 1: no room" in said
    assert "no process '3'" in said


async def test_what_is_late_is_left_running(
    directory: LocalDirectory,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("sixfold.processes.START_S", 0.3)
    describe(
        directory,
        pretended(directory, "coordinator", READY + SLEEP),
        pretended(directory, "node-1", LISTENS + SLEEP),
    )
    code, told = await start(directory, "node-1", "coordinator")
    assert code == 8
    assert [process.name for process in told] == ["coordinator"]
    late = directory.read().find("node-1")
    assert state_of(late) == "running"
    assert f"node-1 is not ready after 0 s (left running; see {late.log})" in (
        capsys.readouterr().err
    )


def test_a_cluster_whose_coordinator_was_away(tmp_path: Path) -> None:
    with local_cluster(tmp_path, 4) as cluster:
        cluster.local("kill", "coordinator", "1", "2", "4")
        alone = sixfold("local", "start", "1", "2", "--dir", str(tmp_path))
        assert alone.returncode == 0
        assert "node-1, node-2 will join when it is back" in alone.stderr
        cluster.local("start", "coordinator")
        cluster.wait_until(lambda: readiness(cluster)["ready"] is True)  # it waits for node-4
        assert readiness(cluster) == {
            "ready": True, "nodes_active": 3, "nodes_readable": 3, "deletes_stopped": "",
        }  # fmt: skip
        cluster.local("kill", "coordinator", "3")
        cluster.local("start", "4", "coordinator", "3")
        assert readiness(cluster)["nodes_active"] == 4


def readiness(cluster: LocalCluster) -> dict[str, object]:
    try:
        with urlopen(f"{cluster.url}/-/ready") as answer:
            said: dict[str, object] = json.load(answer)
    except HTTPError as error:
        said = json.load(error)
    return said

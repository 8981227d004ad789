"""`sixfold drain`, `undrain` and `remove`, on real servers."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from common.errors import Conflict
from tests.local_cluster import LocalCluster, local_cluster, run_sixfold, sixfold

CONTENTS, SIZE_BYTES = 5, 30_000


@pytest.fixture
def five(tmp_path: Path) -> Iterator[LocalCluster]:
    with local_cluster(tmp_path / "cluster", 5) as running:
        yield running


def stored(cluster: LocalCluster, path: Path) -> list[str]:
    """Ids."""
    ids = []
    for number in range(CONTENTS):
        (path / str(number)).write_bytes(os.urandom(SIZE_BYTES))
        ids.append(run_sixfold("put", "--url", cluster.url, "--json", str(path / str(number))))
    return [json.loads(said)["id"] for said in ids]


def asked(cluster: LocalCluster, *command: str) -> dict[str, Any]:
    """The last line of what it says."""
    out = run_sixfold(*command, "--json", "--url", cluster.url)
    said: dict[str, Any] = json.loads(out.splitlines()[-1])
    return said


def refused(cluster: LocalCluster, *command: str) -> str:
    done = sixfold(*command, "--url", cluster.url)
    assert done.returncode == Conflict.exit_code, done
    return done.stderr


def test_a_node_leaves_the_cluster_and_nothing_is_lost(five: LocalCluster, tmp_path: Path) -> None:
    ids = stored(five, tmp_path)
    plan = asked(five, "drain", "node-2", "--dry-run")
    assert (plan["segments"], plan["others"], plan["survives"]) == (CONTENTS, 4, 1)
    assert plan["bytes"] in (CONTENTS * SIZE_BYTES // 6, 2 * CONTENTS * SIZE_BYTES // 6) or (
        CONTENTS * SIZE_BYTES // 6 < plan["bytes"] < 2 * CONTENTS * SIZE_BYTES // 6
    )
    assert (plan["survives_zones"], "--force" in plan["objection"]) == (0, True)
    assert five.nodes()["node-2"]["wish"] == "active"
    assert "--force" in refused(five, "drain", "node-2")
    assert "drain it first" in refused(five, "remove", "node-2")
    assert asked(five, "drain", "node-2", "--force", "--wait")["state"] == "drained"
    assert five.nodes()["node-2"]["state"] == "drained"
    assert asked(five, "undrain", "node-2")["state"] == "active"
    assert asked(five, "drain", "node-2", "--force", "--wait")["state"] == "drained"
    assert asked(five, "remove", "node-2") == {"node": "node-2", "state": "removed"}
    five.kill("node-2")
    assert "removed for good" in refused(five, "undrain", "node-2")
    assert "node-2" not in run_sixfold("nodes", "--url", five.url)
    assert "removed" in run_sixfold("nodes", "--all", "--url", five.url)
    for number, id_ in enumerate(ids):
        assert asked(five, "verify", id_)["whole"]
        run_sixfold("get", "--url", five.url, id_, "-o", str(tmp_path / "back"))
        assert (tmp_path / "back").read_bytes() == (tmp_path / str(number)).read_bytes()


@contextmanager
def waiting_drain(cluster: LocalCluster, node: str) -> Iterator["subprocess.Popen[str]"]:
    """`sixfold drain --wait` that waits for something."""
    command = [sys.executable, "-m", "sixfold", "drain", node, "--force", "--wait"]
    process = subprocess.Popen(
        [*command, "--url", cluster.url], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    with process:
        assert process.stderr is not None
        assert "segments left" in process.stderr.readline()
        yield process
        process.kill()


def end_of(process: "subprocess.Popen[str]") -> tuple[int, str]:
    """The exit code, and the last line that it says."""
    out, err = process.communicate(timeout=60)
    return process.returncode, (err or out).splitlines()[-1]


def test_a_drain_that_is_taken_back_is_waited_for_no_longer(five: LocalCluster) -> None:
    five.local("pause", "2")  # so that nothing can be moved meanwhile, nor deleted
    five.wait_for("suspect", "node-2")
    with waiting_drain(five, "node-2") as waiting:
        asked(five, "undrain", "node-2")
        assert end_of(waiting) == (
            Conflict.exit_code,
            "sixfold: node-2 was taken back into service, with shards of 0 segments",
        )
    five.local("resume", "2")


def test_a_drain_is_done_when_the_node_is_lost_and_made_up_for(tmp_path: Path) -> None:
    """It will never say itself that it is empty."""
    with local_cluster(tmp_path / "cluster", 5, "--lost-after", "10") as cluster:
        stored(cluster, tmp_path)
        cluster.kill("node-2")
        cluster.wait_for("suspect", "node-2")
        with waiting_drain(cluster, "node-2") as waiting:
            code, word = waiting.wait(60), waiting.communicate()[0].splitlines()[-1]
        assert (code, word) == (
            0, "node-2 is lost, and no segment needs it any more: it can be removed",
        )  # fmt: skip
        assert asked(cluster, "remove", "node-2")["state"] == "removed"
        for options in ([], ["--dry-run"]):
            said = refused(cluster, "drain", "node-2", "--force", *options)
            assert said == "sixfold: node-2 was removed for good\n"


def test_a_silent_node_shows_what_is_wanted_of_it(five: LocalCluster) -> None:
    five.kill("node-5")
    five.wait_for("suspect", "node-5")
    asked(five, "drain", "node-5", "--force")
    assert "suspect, draining" in run_sixfold("nodes", "--url", five.url)

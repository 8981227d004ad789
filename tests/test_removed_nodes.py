"""A node that was removed from a local cluster: its process ends, the cluster comes again without
it, and an empty node can take its place."""

import json
import shutil
from pathlib import Path

import pytest

from tests.local_cluster import LocalCluster, local_cluster, run_sixfold, sixfold


def state_of(cluster: LocalCluster, name: str) -> str:
    """Of its process."""
    lines = run_sixfold("local", "status", "--json", "--dir", str(cluster.directory)).splitlines()
    said = {process["name"]: process["state"] for process in map(json.loads, lines)}
    return str(said[name])


def states(cluster: LocalCluster, name: str) -> list[str]:
    """Of all nodes that ever had the name."""
    return sorted(node["state"] for node in cluster.listing()["nodes"] if node["name"] == name)


def take_away(cluster: LocalCluster, name: str) -> None:
    run_sixfold("drain", name, "--force", "--wait", "--url", cluster.url)
    run_sixfold("remove", name, "--url", cluster.url)
    cluster.wait_until(lambda: state_of(cluster, name) == "gone")


def test_a_cluster_comes_again_without_a_node_that_was_removed(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with local_cluster(tmp_path, 4) as cluster:
        take_away(cluster, "node-2")
        said = sixfold("local", "start", "2", "--dir", str(tmp_path))
        assert said.returncode == 5
        assert "was removed for good" in said.stderr
    said_of_its_end = capfd.readouterr().err
    assert "node-2 (pid " in said_of_its_end
    assert "was removed for good: its data directory may be deleted" in said_of_its_end
    with local_cluster(tmp_path, 4) as cluster:
        assert state_of(cluster, "node-2") == "gone"
        cluster.wait_for("active", "node-1", "node-3", "node-4")
    assert capfd.readouterr().err == (
        "sixfold: node-2 was removed from the cluster and is not started: its data directory "
        f"{tmp_path}/node-2 may be deleted\n"
    )
    shutil.rmtree(tmp_path / "node-2")
    with local_cluster(tmp_path, 4) as cluster:
        assert states(cluster, "node-2") == ["active", "removed"]


def test_an_empty_node_takes_the_place_of_one_that_was_lost(tmp_path: Path) -> None:
    """As README.md tells it."""
    (tmp_path / "file").write_bytes(bytes(100_000))
    with local_cluster(tmp_path / "cluster", 4, "--lost-after", "10") as cluster:
        id_ = run_sixfold("put", str(tmp_path / "file"), "--url", cluster.url).split()[0]
        cluster.kill("node-3")
        shutil.rmtree(cluster.directory / "node-3")
        cluster.wait_for("lost", "node-3")
        command = ("remove", "node-3", "--url", cluster.url)
        cluster.wait_until(lambda: sixfold(*command).returncode == 0)
        run_sixfold("local", "start", "3", "--dir", str(cluster.directory))
        assert states(cluster, "node-3") == ["active", "removed"]
        run_sixfold("verify", id_, "--url", cluster.url)


@pytest.mark.parametrize("is_empty", [True, False])
def test_a_node_whose_data_is_lost_does_not_keep_the_others_from_starting(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], is_empty: bool
) -> None:
    """It can be removed only while they run."""
    with local_cluster(tmp_path, 4) as cluster:
        cluster.kill("node-3")
        shutil.rmtree(tmp_path / "node-3")
        assert sixfold("local", "start", "3", "--dir", str(tmp_path)).returncode == 5
        if is_empty:
            shutil.rmtree(tmp_path / "node-3")
    capfd.readouterr()
    with local_cluster(tmp_path, 4, "--lost-after", "10") as cluster:
        assert capfd.readouterr().err == (
            "sixfold: node-3 is not started: the cluster knows it, but its data is not in "
            f"{tmp_path}/node-3. If it is lost for good: sixfold remove node-3, and sixfold local "
            "start node-3\n"
        )
        command = ("remove", "node-3", "--url", cluster.url)
        cluster.wait_until(lambda: sixfold(*command).returncode == 0)
        run_sixfold("local", "start", "node-3", "--dir", str(tmp_path))
        assert states(cluster, "node-3") == ["active", "removed"]

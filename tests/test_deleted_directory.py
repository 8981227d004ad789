"""`rm -rf` of a running node's directory: it goes on serving what it has open, and repair does not
wait for its end."""

import json
import os
import shutil
from pathlib import Path
from typing import Any

from tests.local_cluster import LocalCluster, local_cluster, run_sixfold

CONTENTS, SIZE_BYTES = 5, 30_000
LOST_AFTER_S = 11  # more than a suspect is given


def verified(cluster: LocalCluster, id_: str) -> dict[str, Any]:
    said: dict[str, Any] = json.loads(run_sixfold("verify", "--url", cluster.url, "--json", id_))
    return said


def test_what_lay_there_is_made_anew_elsewhere(tmp_path: Path) -> None:
    with local_cluster(tmp_path / "c", 7, "--lost-after", str(LOST_AFTER_S)) as cluster:
        ids = {}
        for number in range(CONTENTS):
            path = tmp_path / str(number)
            path.write_bytes(os.urandom(SIZE_BYTES))
            said = run_sixfold("put", "--url", cluster.url, "--json", str(path))
            ids[json.loads(said)["id"]] = path
        assert verified(cluster, next(iter(ids)))["whole"]
        shutil.rmtree(cluster.directory / "node-3")
        cluster.wait_for("detached", "node-3")
        assert "node.json" in run_sixfold("nodes", "--url", cluster.url)  # it says why
        cluster.wait_for("lost", "node-3")
        cluster.wait_until(lambda: holding(cluster, "node-3", list(ids)) == 0)
        cluster.kill("node-3")
        run_sixfold("remove", "--url", cluster.url, "node-3")
        for id_, path in ids.items():
            assert verified(cluster, id_)["whole"]
            run_sixfold("get", "--url", cluster.url, id_, "-o", str(tmp_path / "back"))
            assert (tmp_path / "back").read_bytes() == path.read_bytes()


def holding(cluster: LocalCluster, name: str, ids: list[str]) -> int:
    """How many shards of these contents lie on that node, by the layouts."""
    said = [json.loads(run_sixfold("explain", "--url", cluster.url, "--json", id_)) for id_ in ids]
    segments = [segment for one in said for segment in one["segments"]]
    return sum(shard["name"] == name for segment in segments for shard in segment["shards"])

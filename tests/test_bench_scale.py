"""The scale benchmark at a small size: it measures what it says, and placement keeps its promises.
Times are not judged here: the machine may be busy."""

import json
import subprocess
import sys
from collections.abc import Mapping
from typing import Any

import pytest

SMALL = {"segments": 3000, "rounds": 1, "calls": 256, "requests": 32, "placements": 20_000}
COMPARED = {
    *(
        f"metadata: {verb}, {clients}"
        for verb in ("PUT", "GET")
        for clients in ("1 client", "64 clients")
    ),
    "metadata: DELETE, 64 clients",
    "metadata: collect 256 deleted contents",
    "metadata: list 32 due deletes of a node",
    *(f"HTTP: {verb} 4 KiB, clients: {clients}" for verb in ("PUT", "GET") for clients in (1, 64)),
}


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Mapping[str, Any]]:
    output = tmp_path_factory.mktemp("scale") / "results" / "scale.json"
    command = [sys.executable, "-m", "bench.scale", "--output", str(output)]
    command += [word for name, value in SMALL.items() for word in (f"--{name}", str(value))]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    written = json.loads(output.read_text())
    assert all(row["name"] in done.stdout for row in written)
    return {row["name"]: row for row in written}


def test_costs_are_held_against_those_of_an_empty_store(
    rows: Mapping[str, Mapping[str, Any]],
) -> None:
    assert rows["metadata: segments loaded"]["value"] == SMALL["segments"]
    assert rows.keys() >= COMPARED
    for name in COMPARED:
        row = rows[name]
        assert row["unit"] == "µs"
        assert row["floor"] > 0
        assert row["fraction"] == pytest.approx(row["value"] / row["floor"])
        assert row["min"] <= row["value"] <= row["max"]


def test_nodes_of_all_sizes_fill_evenly(rows: Mapping[str, Mapping[str, Any]]) -> None:
    """A shard is up to 1.7 % of a node here: so far apart may they be, and hardly more."""
    assert rows["placement: segments placed"]["value"] == SMALL["placements"]
    assert rows["placement: used, mean of nodes"]["value"] == pytest.approx(50, abs=0.1)
    assert rows["placement: used, standard deviation"]["value"] < 0.5
    assert rows["placement: used, max − min"]["value"] < 3 * 1.7


def test_no_zone_holds_more_than_may_be_lost(rows: Mapping[str, Mapping[str, Any]]) -> None:
    assert rows["placement: most shards of a segment in one zone"]["value"] <= 3


@pytest.mark.parametrize("what", ["n first nodes", "candidates"])
def test_nodes_that_join_move_their_share(rows: Mapping[str, Mapping[str, Any]], what: str) -> None:
    row = rows[f"placement: {what} that move when 10 nodes join"]
    assert row["floor"] == pytest.approx(100 * 10 / 1010)
    assert 0.8 < row["fraction"] < 1.2

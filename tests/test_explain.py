"""Explain: where shards are, what their nodes say now, and what may still fail."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from common.errors import NodeTimeout
from common.ids import ContentId, ShardAddress
from common.shards import ShardMissing
from coordinator.explain import Explain
from coordinator.remote_store import ShardThere
from sixfold.care_words import explain_lines
from sixfold.client import Client
from tests.blobs import UNKNOWN, content, put
from tests.local_cluster import LocalCluster, run_sixfold
from tests.metadata_parts import notice
from tests.whole_path import Bed, MemoryNode, memory_bed

SEGMENT = 4096


@pytest.fixture
async def bed(tmp_path: Path) -> AsyncIterator[Bed]:
    async with memory_bed(tmp_path, zones=3, segment_bytes=SEGMENT, grace_s=0) as running:
        yield running


async def explained(bed: Bed, id_: str) -> dict[str, Any]:
    async with Client(bed.url) as client:
        return await client.explain(ContentId.parse(id_))


async def test_a_healthy_content(bed: Bed) -> None:
    id_ = await put(bed.http, content(1000, "healthy"))
    said = await explained(bed, id_)
    assert (said["state"], said["segment_count"], said["being_deleted"]) == ("live", 1, [])
    (one,) = said["segments"]
    assert (one["id"], one["position"], one["size_bytes"]) == (id_, 0, 1000)
    assert (one["repair"], one["verified_at_s"]) == (None, None)
    assert [shard["index"] for shard in one["shards"]] == list(range(9))
    assert {shard["state"] for shard in one["shards"]} == {"present"}
    assert {shard["node_state"] for shard in one["shards"]} == {"active"}
    assert sorted(shard["name"] for shard in one["shards"]) == [f"node-{i}" for i in range(1, 10)]
    assert (one["may_fail"]["nodes"], one["may_fail"]["zones"]) == (3, 1)
    assert one["may_fail"]["of_zones"] == ["zone-0", "zone-1", "zone-2"]


async def test_every_way_to_be_without_a_shard(bed: Bed) -> None:
    id_ = await put(bed.http, content(1000, "without"))
    (segment,) = await bed.segments(id_)
    bed.lose(segment, 2)
    bed.away(segment.layout[4])
    await bed.coordinator.metadata.queue_repair(notice(segment, 2))
    said = await explained(bed, id_)
    (one,) = said["segments"]
    states = {shard["index"]: shard["state"] for shard in one["shards"]}
    assert (states[2], states[4]) == ("missing", "unreachable")
    assert list(states.values()).count("present") == 7
    assert one["shards"][4]["node_state"] == "suspect"
    assert (one["repair"]["survivors"], one["repair"]["reason"]) == (8, "1 are bad")
    assert one["repair"]["wait_s"] == 0
    assert one["may_fail"]["nodes"] == 1
    text = "\n".join(explain_lines(said))
    assert "missing: the node says that it has no such shard" in text
    assert "in the repair queue for" in text
    assert "may still fail: any 1 of node-" in text


async def test_too_few_shards_are_said_to_be_too_few(bed: Bed) -> None:
    id_ = await put(bed.http, content(1000, "too few"))
    bed.away(1, 2, 3, 4)
    said = await explained(bed, id_)
    assert said["segments"][0]["may_fail"]["nodes"] == -1
    assert "it cannot be read now" in "\n".join(explain_lines(said))


async def test_several_segments_and_their_list_come_in_pages(bed: Bed) -> None:
    id_ = await put(bed.http, content(70 * SEGMENT + 1, "several"))
    async with bed.http.get(f"/v1/blobs/{id_}/explain?first=3&limit=2") as answer:
        page = await answer.json()
    assert ([s["position"] for s in page["segments"]], page["next"]) == ([3, 4], 5)
    said = await explained(bed, id_)
    assert said["segment_count"] == 72
    assert [s["position"] for s in said["segments"]] == [*range(71), None]
    stored = await bed.segments(id_)
    assert [s["id"] for s in said["segments"]][:71] == [str(segment.id) for segment in stored]
    assert "list of segments" in "\n".join(explain_lines(said))


async def test_a_segment_that_comes_twice_is_shown_twice(bed: Bed) -> None:
    half = content(SEGMENT, "twice")
    said = await explained(bed, await put(bed.http, half + half))
    assert [s["position"] for s in said["segments"]] == [0, 1, None]
    assert said["segments"][0]["id"] == said["segments"][1]["id"]


async def test_when_nodes_and_coordinator_verified_is_told(bed: Bed) -> None:
    id_ = await put(bed.http, content(1000, "verified"))
    for node in bed.cluster.memory.values():
        node.verified_at_s = 1_700_000_000
    said = await explained(bed, id_)
    assert {s["verified_at_s"] for s in said["segments"][0]["shards"]} == {1_700_000_000}
    assert "2023-11-14T22:13:20Z" in "\n".join(explain_lines(said))


async def test_deleted_then_doomed_then_gone(bed: Bed) -> None:
    id_ = await put(bed.http, content(1000, "deleted"))
    async with bed.http.delete(f"/v1/blobs/{id_}") as answer:
        assert answer.status == 204
    said = await explained(bed, id_)
    assert (said["state"], len(said["segments"])) == ("deleted", 1)
    bed.away(5)  # its deletes stay in the outbox
    metadata = bed.coordinator.metadata
    assert await metadata.collect(10) == 1
    while len((await explained(bed, id_))["being_deleted"]) > 1:
        await asyncio.sleep(0.05)  # the outbox job is at work
    said = await explained(bed, id_)
    assert (said["state"], said["segments"]) == ("doomed", [])
    (row,) = said["being_deleted"]
    assert (row["node"], row["name"], len(row["indexes"])) == (5, "node-5", 1)
    assert "node-5 has yet to delete shard" in "\n".join(explain_lines(said))


async def test_what_was_never_there_is_not_found(bed: Bed) -> None:
    async with bed.http.get(f"/v1/blobs/{UNKNOWN}/explain") as answer:
        assert answer.status == 404


@pytest.mark.parametrize("query", ["?first=-1", "?limit=x", "?first=9999999999999999"])
async def test_what_is_no_number_is_refused(bed: Bed, query: str) -> None:
    id_ = await put(bed.http, content(1000, "numbers"))
    async with bed.http.get(f"/v1/blobs/{id_}/explain{query}") as answer:
        assert answer.status == 400


class Silent(MemoryNode):
    async def head(self, address: ShardAddress) -> ShardThere | ShardMissing:
        await asyncio.Event().wait()
        raise AssertionError("it never answers")


class Failing(MemoryNode):
    async def head(self, address: ShardAddress) -> ShardThere | ShardMissing:
        raise NodeTimeout("no answer")


async def test_a_node_that_hangs_holds_up_nothing(bed: Bed) -> None:
    id_ = await put(bed.http, content(1000, "hangs"))
    bed.cluster.memory[3], bed.cluster.memory[7] = Silent(), Failing()
    explain = Explain(bed.coordinator.metadata, bed.cluster, deadline_s=0.05)
    said = await explain.run(ContentId.parse(id_), 0, 10)
    shards = {shard["node"]: shard for shard in said["segments"][0]["shards"]}
    assert (shards[3]["state"], shards[3]["why"]) == ("unreachable", "no answer in time")
    assert (shards[7]["state"], shards[7]["why"]) == ("unreachable", "no answer")
    assert said["segments"][0]["may_fail"]["nodes"] == 1


def test_the_command_on_real_nodes(cluster: LocalCluster, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(content(20_000, "explain command"))
    id_ = run_sixfold("put", str(path), "--url", cluster.url).split()[0]
    lines = run_sixfold("explain", id_, "--url", cluster.url).splitlines()
    assert lines[0] == f"{id_}: live, 1 segments"
    assert sum(" present " in line for line in lines) == 9
    assert "may fail now" in run_sixfold("durability", "--url", cluster.url)
    assert "outbox" in run_sixfold("jobs", "--url", cluster.url)


async def test_what_a_detached_node_has_does_not_count(bed: Bed) -> None:
    """It has it only as long as its process runs."""
    id_ = await put(bed.http, content(1000, "detached"))
    for node in list(bed.cluster.membership.nodes.values())[:2]:
        assert node.report is not None
        node.report = replace(node.report, detached=True)
    (one,) = (await explained(bed, id_))["segments"]
    assert {shard["state"] for shard in one["shards"]} == {"present"}
    async with bed.http.head(f"/v1/blobs/{id_}") as answer:
        assert answer.headers["Sixfold-Durability"] == "7/9; survives=1"
    assert one["may_fail"]["nodes"] == 1

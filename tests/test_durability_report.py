"""What an operator is told of durability and of jobs: over HTTP, and as words."""

from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from common.units import MIB
from coordinator.metadata import COLLECT, OUTBOX, DeleteReason, ShardsOnNode
from coordinator.metadata.rows import NO_NODE, Wish
from coordinator.risk import Assumed, yearly_loss
from coordinator.risk_report import FRESH_S
from coordinator.standing import Kind, Standing, Surroundings
from sixfold.care_words import durability_lines, job_lines
from sixfold.client import Client
from tests.blobs import content, put
from tests.metadata_parts import notice
from tests.reports import report_of
from tests.stores import make_shard
from tests.whole_path import Bed, memory_bed

NINE = tuple(range(1, 10))


@pytest.fixture
async def bed(tmp_path: Path) -> AsyncIterator[Bed]:
    async with memory_bed(tmp_path, zones=3, jobs=False) as running:
        yield running


async def report(bed: Bed, query: str = "") -> dict[str, Any]:
    bed.clock.now_s += FRESH_S
    async with bed.http.get(f"/-/admin/durability{query}") as answer:
        said: dict[str, Any] = await answer.json()
        assert answer.status == 200, said
    return said


# Adding layouts up


def test_layouts_are_added_up_by_what_they_can_still_lose() -> None:
    around = Surroundings({node: 1 + node % 3 for node in NINE if node != 9})
    standing = Standing(6)
    standing.add_layout(NINE, 10, {}, around)
    standing.add_layout((10, *NINE[1:]), 1, {}, around)  # of node 10 nothing is known
    standing.add_layout((1, 2, 3, 4, 5, 6, 7, 8, NO_NODE), 5, {}, around)
    standing.add_layout((1, 2, 3) * 3, 7, {}, around)
    assert standing.segments == 23
    assert standing.complete == {Kind(9, 3): 11, Kind(3, 1): 7}
    assert standing.short == {Kind(8, 2): 15, Kind(7, 1): 1}
    assert standing.spare_nodes == {2: 15, 1: 8}
    assert standing.node_sets == 4


def test_bad_shards_and_absent_nodes_are_taken_together() -> None:
    around = Surroundings({node: node for node in NINE if node not in (7, 8, 9)})
    standing = Standing(6)
    standing.add_layout(NINE, 10, {0b1: 2, 0b1000000: 3}, around)
    assert standing.spare_nodes == {-1: 2, 0: 8}  # shard 6 was on node 7
    assert (standing.on_absent, standing.with_bad, standing.segments) == (10, 5, 10)
    assert standing.complete == {Kind(9, 3): 10}


# Over HTTP


async def test_a_healthy_store(bed: Bed) -> None:
    for number in range(5):
        await put(bed.http, content(1000, f"healthy {number}"))
    said = await report(bed)
    assert said["segments"] == 5
    assert said["may_fail_now"] == {"nodes": 3, "zones": 1}
    assert said["short"] == {
        "on_absent_nodes": 0, "with_bad_shards": 0, "kinds": [], "queued": 0,
        "fewest_survivors": None,
    }  # fmt: skip
    assert said["metadata_loss_per_year"]["probability"] == 0.02
    assert "independently" in said["model"]
    assert "4 nodes or 2 zones" in said["correlated"]


async def test_the_figures_follow_from_what_is_said_to_be_assumed(bed: Bed) -> None:
    await put(bed.http, content(1000, "figures"))
    said = await report(bed, "?afr=0.05&rot=0.001")
    assumed = said["assumed"]
    names = ("afr", "rot_per_shard_year", "repair_h", "scrub_h")
    assert (assumed["afr"], assumed["rot_per_shard_year"]) == (0.05, 0.001)
    expected = yearly_loss(Assumed(*(assumed[name] for name in names)), 9, 3).probability()
    assert said["loss_per_year"]["object"]["serial"] == pytest.approx(expected.serial)
    assert said["loss_per_year"]["any_object"]["serial"] == pytest.approx(expected.serial)


async def test_the_time_of_repair_is_measured_where_there_was_one(bed: Bed) -> None:
    """A node of 3 GB used takes 6 · 3e9 bytes of segments to repair: at 1 MB/s five hours."""
    node = report_of(1, zone="zone-1", used_bytes=3 * 10**9, free_bytes=10**10)
    await bed.cluster.membership.report(node, b"another report")
    config = bed.coordinator.services.config
    detection_h = config.lost_after_s / 3600
    assumed = (await report(bed))["assumed"]
    assert "may have" in assumed["repair_h_is"]
    allowed_h = 18e9 / config.repair_bytes_per_s / 3600
    assert assumed["repair_h"] - detection_h == pytest.approx(allowed_h)
    await bed.coordinator.metadata.save_job_state("repair", {"bytes_per_s": 1e6})
    assumed = (await report(bed))["assumed"]
    assert "measured" in assumed["repair_h_is"]
    assert assumed["repair_h"] - detection_h == pytest.approx(5.0)


async def test_nodes_that_are_away_count_and_are_counted_apart(bed: Bed) -> None:
    await put(bed.http, content(1000, "away"))
    healthy = await report(bed)
    bed.away(2, 5)
    said = await report(bed)
    assert said["may_fail_now"]["nodes"] == 1
    (kind,) = said["short"]["kinds"]
    assert (kind["nodes"], kind["may_fail"], kind["segments"]) == (7, 1, 1)
    assert 0 < kind["loss_before_repair"] < 1
    assert said["loss_per_year"]["object"] == pytest.approx(
        healthy["loss_per_year"]["object"], rel=1e-2
    )
    bed.away(1, 2, 3, 4)
    lost = await report(bed)
    assert lost["may_fail_now"] == {"nodes": -1, "zones": -1}
    assert lost["short"]["kinds"][0]["loss_before_repair"] is None  # they may come back
    assert "on 5 nodes; what is on nodes that are away comes back" in "\n".join(
        durability_lines(lost)
    )


async def test_what_waits_for_repair_counts(bed: Bed) -> None:
    id_ = await put(bed.http, content(1000, "queued"))
    (segment,) = await bed.segments(id_)
    await bed.coordinator.metadata.queue_repair(notice(segment, 0, 5))
    said = await report(bed)
    assert said["may_fail_now"]["nodes"] == 1
    assert (said["short"]["queued"], said["short"]["fewest_survivors"]) == (1, 7)
    assert (said["short"]["on_absent_nodes"], said["short"]["with_bad_shards"]) == (0, 1)
    bed.away(segment.layout[1], segment.layout[2], segment.layout[5])
    said = await report(bed)
    assert said["may_fail_now"]["nodes"] == -1
    (kind,) = said["short"]["kinds"]
    assert (kind["nodes"], kind["may_fail"], kind["segments"]) == (5, -1, 1)


async def test_what_is_gone_for_good_is_not_said_to_come_back_with_nodes(bed: Bed) -> None:
    ids = [await put(bed.http, content(1000, f"gone {number}")) for number in range(2)]
    first, second = [(await bed.segments(id_))[0] for id_ in ids]
    await bed.coordinator.metadata.queue_repair(notice(first, *range(9)))
    said = await report(bed)
    (kind,) = said["short"]["kinds"]
    assert (kind["nodes"], kind["segments"], kind["gone"]) == (0, 1, 1)
    (row,) = [line for line in durability_lines(said) if "unreadable now" in line]
    assert "1 segments on 0 nodes; too many of their shards are gone" in row
    assert "upload" in row
    assert "sixfold unreadable" in row
    assert "comes back" not in row
    await bed.coordinator.metadata.queue_repair(notice(second, 0, 1))
    bed.away(*NINE)  # the second may come back with them, the first may not
    (kind,) = (said := await report(bed))["short"]["kinds"]
    assert (kind["nodes"], kind["segments"], kind["gone"]) == (0, 2, 1)
    (row,) = [line for line in durability_lines(said) if "unreadable now" in line]
    assert "too many shards of 1 are gone" in row
    assert "comes back" in row


async def test_what_a_removed_node_had_does_not_come_back_with_it(bed: Bed) -> None:
    id_ = await put(bed.http, content(1000, "removed"))
    (segment,) = await bed.segments(id_)
    await bed.coordinator.metadata.queue_repair(notice(segment, 0, 1, 2))
    node = bed.cluster.membership.nodes[segment.layout[3]]
    node.row = replace(node.row, wish=Wish.REMOVED)
    (kind,) = (await report(bed))["short"]["kinds"]
    assert (kind["may_fail"], kind["gone"]) == (-1, 1)


async def test_the_scan_is_kept_for_some_seconds(bed: Bed) -> None:
    await put(bed.http, content(1000, "kept"))
    assert (await report(bed))["segments"] == 1
    await put(bed.http, content(1000, "and one more"))
    async with bed.http.get("/-/admin/durability") as answer:
        assert (await answer.json())["segments"] == 1
    assert (await report(bed))["segments"] == 2


async def test_nodes_that_go_are_seen_at_once(bed: Bed) -> None:
    await put(bed.http, content(1000, "seen"))
    assert (await report(bed))["may_fail_now"]["nodes"] == 3
    for away, left in ((1, 2), (2, 1), (3, 0)):
        bed.away(*range(1, away + 1))
        async with bed.http.get("/-/admin/durability") as answer:
            assert (await answer.json())["may_fail_now"]["nodes"] == left


async def test_an_empty_store_promises_nothing(bed: Bed) -> None:
    said = await report(bed)
    assert said["may_fail_now"] == {"nodes": None, "zones": None}
    assert said["loss_per_year"]["may_fail"] == 3
    assert durability_lines(said)


@pytest.mark.parametrize("query", ["?afr=0", "?afr=1", "?afr=nan", "?afr=x", "?rot=-1", "?rot=inf"])
async def test_what_is_no_rate_is_refused(bed: Bed, query: str) -> None:
    async with bed.http.get(f"/-/admin/durability{query}") as answer:
        assert answer.status == 400


# Jobs, and words


async def test_the_jobs_that_delete_tell_what_they_did_and_what_waits(bed: Bed) -> None:
    metadata = bed.coordinator.metadata
    async with Client(bed.url) as client:
        for job in (COLLECT, OUTBOX):
            assert await metadata.take_lease(job, 15)
        assert [line.split()[-1] for line in job_lines(await client.jobs())[1:]] == ["-", "-"]
        shards = [ShardsOnNode(node, (make_shard(1).address,)) for node in (1, 2)]
        await metadata.add_deletes(shards, DeleteReason.DOOMED)
        assert await metadata.finish_deletes(await metadata.due_deletes(1, 10))
        words = {line.split()[0]: line for line in job_lines(await client.jobs())}
    assert words[OUTBOX].endswith("  deleted 1, waiting 1")
    assert words[COLLECT].endswith("  -")


async def test_jobs_tell_who_does_them_and_what_they_say(bed: Bed) -> None:
    metadata = bed.coordinator.metadata
    epoch = await metadata.take_lease("repair", 15)
    assert epoch
    state = {
        "nodes": "1:active", "running": True, "queued": 3, "hopeless": 0, "left_s": None,
        "words": "x" * 100, "bytes": 5 * MIB, "began_at_s": 1_700_000_000,
        "verified_at_s": 1_700_000_000,
    }  # fmt: skip
    await metadata.save_job_state("repair", state)
    async with Client(bed.url) as client:
        said = await client.jobs()
    jobs = {job["name"]: job for job in said["jobs"]}
    assert jobs["repair"] == {
        "name": "repair", "session": metadata.session, "epoch": epoch, "held": True,
        "age_s": jobs["repair"]["age_s"], "state": state,
    }  # fmt: skip
    assert 0 <= jobs["repair"]["age_s"] < 60
    (line,) = [line for line in job_lines(said) if line.startswith("repair ")]
    assert f"session {metadata.session}" in line
    moment = "2023-11-14T22:13:20Z"
    times = f"began {moment}, all looked at since {moment}"
    assert line.endswith(f"  running, queued 3, words {'x' * 100}, bytes 5.0 MiB, {times}")
    await metadata.give_back_lease("repair")
    async with Client(bed.url) as client:
        jobs = {job["name"]: job for job in (await client.jobs())["jobs"]}
    assert not jobs["repair"]["held"]


async def test_the_words_say_what_the_figures_say(bed: Bed) -> None:
    await put(bed.http, content(1000, "words"))
    bed.away(4)
    async with Client(bed.url) as client:
        lines = durability_lines(await client.durability(0.03))
    text = "\n".join(lines)
    assert "may fail now        2 nodes, 0 zones" in text
    assert "3.00% of nodes fail in a year" in text
    assert "1 segments on 8 nodes" in text
    assert "a year (" in text
    assert "unknown" in text

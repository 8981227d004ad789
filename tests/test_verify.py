"""Verify and scrub: whole stripes are read, what is bad is queued, what is good is said to be."""

import os
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from common.errors import Corrupt, NotFound, Unavailable
from common.hashing import blake3_digest
from common.ids import ContentId
from common.shards import ShardRecord
from coordinator.repair import RepairWorker
from coordinator.scrub import ScrubWorker, progress_of
from coordinator.throttle import Throttle
from coordinator.wanted import want_pass
from sixfold.care_errors import not_found, not_looked_at, not_whole
from sixfold.care_words import scrub_lines, verify_lines
from sixfold.client import Client
from tests.blobs import UNKNOWN, content, get, put
from tests.local_cluster import LocalCluster, local_cluster, run_sixfold, sixfold
from tests.reports import report_of
from tests.whole_path import Bed, memory_bed

SEGMENT = 96 * 1024
INTERVAL_S = 1000.0


@pytest.fixture
async def bed(tmp_path: Path) -> AsyncIterator[Bed]:
    async with memory_bed(tmp_path, jobs=False, segment_bytes=SEGMENT) as running:
        yield running


async def verified(bed: Bed, id_: str) -> dict[str, Any]:
    async with Client(bed.url) as client:
        return await client.verify(ContentId.parse(id_))


async def verified_at(bed: Bed, id_: str) -> list[int]:
    """Of each segment, the list of segments included."""
    found = await bed.coordinator.metadata.explained(ContentId.parse(id_), 0, 100)
    assert found is not None
    return [segment.verified_at_s for segment in found.segments]


async def queued(bed: Bed) -> dict[int, int]:
    return dict(await bed.coordinator.metadata.queued_by_survivors())


@pytest.mark.parametrize("size", [0, 1, 4096, SEGMENT, 3 * SEGMENT + 1])
async def test_a_whole_content(bed: Bed, size: int) -> None:
    id_ = await put(bed.http, content(size, "whole"))
    assert set(await verified_at(bed, id_)) == {0}
    said = await verified(bed, id_)
    segments = 1 if size <= SEGMENT else 5
    assert said == {
        "id": id_, "state": "live", "whole": True, "id_is_right": True,
        "segments": segments, "shards": 9 * segments, "bad": [],
    }  # fmt: skip
    assert min(await verified_at(bed, id_)) > 0
    assert await queued(bed) == {}
    assert bed.coordinator.buffers.used_bytes == 0
    assert "are good" in verify_lines(said)[0]


async def test_parity_that_no_read_would_look_at_is_found(bed: Bed) -> None:
    id_ = await put(bed.http, content(3 * SEGMENT, "parity"))
    segments = await bed.segments(id_)
    bed.rot(segments[1], 8)
    bed.lose(segments[1], 2)
    said = await verified(bed, id_)
    assert (said["whole"], said["id_is_right"]) == (False, True)
    (bad,) = said["bad"]
    assert (bad["position"], bad["good"], bad["queued"]) == (1, 7, True)
    assert {s["index"]: s["state"] for s in bad["shards"]} == {2: "missing", 8: "bad"}
    assert await queued(bed) == {7: 1}
    times = await verified_at(bed, id_)
    assert times[1] == 0
    assert min(times[0], *times[2:]) > 0
    assert "in the repair queue" in "\n".join(verify_lines(said))
    assert not_whole(said).exit_code == Corrupt.exit_code


async def test_what_verify_finds_repair_heals_in_its_place(bed: Bed) -> None:
    id_ = await put(bed.http, content(2 * SEGMENT, "heals"))
    before = await bed.segments(id_)
    bed.rot(before[0], 4)
    bed.lose(before[0], 7)
    bed.lose(before[1], 0)
    assert not (await verified(bed, id_))["whole"]
    sleeps = Sleeps()
    repair = RepairWorker(bed.coordinator.services, Throttle(1e12, sleeps, sleeps.sleep), sleeps)
    while await repair.step():
        pass
    assert (await verified(bed, id_))["whole"]
    assert await queued(bed) == {}
    assert [s.layout for s in await bed.segments(id_)] == [s.layout for s in before]


async def test_what_cannot_be_reached_is_neither_good_nor_to_repair(bed: Bed) -> None:
    id_ = await put(bed.http, content(4096, "unreachable"))
    bed.away(1, 2)
    said = await verified(bed, id_)
    assert (said["whole"], said["id_is_right"], said["bad"][0]["queued"]) == (False, True, False)
    assert await queued(bed) == {}
    assert await verified_at(bed, id_) == [0]
    assert not_whole(said).exit_code == Unavailable.exit_code


async def test_with_four_gone_nothing_can_be_said_of_the_bytes(bed: Bed) -> None:
    id_ = await put(bed.http, content(4096, "four"))
    (segment,) = await bed.segments(id_)
    for index in (0, 1, 2, 3):
        bed.lose(segment, index)
    said = await verified(bed, id_)
    assert (said["whole"], said["id_is_right"]) == (False, None)
    assert await queued(bed) == {5: 1}
    assert "it cannot be read" in verify_lines(said)[0]


async def test_shards_that_match_their_checksums_but_not_each_other_are_found(bed: Bed) -> None:
    """As if wrong parity had been written, with the checksum of what was written."""
    id_ = await put(bed.http, content(4096, "disagree"))
    (segment,) = await bed.segments(id_)
    record = bed.held(segment, 7)
    wrong = bytes(len(record.payload))
    checksum = blake3_digest(wrong)
    bed.put_back(segment, 7, ShardRecord(record.info._replace(checksum=checksum), wrong))
    checksums = segment.checksums[: 7 * 32] + checksum + segment.checksums[8 * 32 :]
    metadata = bed.coordinator.metadata
    await metadata._write(
        lambda sql: sql.run("UPDATE segment SET checksums = ? WHERE id = ?", checksums, segment.id)
    )
    said = await verified(bed, id_)
    assert said["bad"][0]["disagrees"] == "the shards do not belong together"
    assert await queued(bed) == {0: 1}
    assert await verified_at(bed, id_) == [0]
    assert "wrong bytes" in str(not_whole(said))
    assert await get(bed.http, id_) == content(4096, "disagree")


async def test_of_what_is_deleted_it_is_told_that_it_is(bed: Bed) -> None:
    id_ = await put(bed.http, content(4096, "deleted"))
    bed.lose((await bed.segments(id_))[0], 2)
    async with bed.http.delete(f"/v1/blobs/{id_}") as answer:
        assert answer.status == 204
    said = await verified(bed, id_)
    assert (said["state"], said["whole"], said["id_is_right"]) == ("deleted", False, True)
    lines = verify_lines(said)
    assert lines[0].startswith(f"{id_}: deleted; not whole, 9 shards")
    assert "shard 2 on node-" in lines[1]
    assert not_found(said).exit_code == NotFound.exit_code


async def test_what_was_never_there_is_not_found(bed: Bed) -> None:
    async with bed.http.post(f"/-/admin/verify/{UNKNOWN}") as answer:
        assert answer.status == 404


# Scrub


class Sleeps:
    """A clock that only sleeping moves."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s

    async def sleep(self, wait_s: float) -> None:
        self.now_s += wait_s


def scrubber(bed: Bed, sleeps: Sleeps | None = None, rate: float = 1e12) -> ScrubWorker:
    sleeps = sleeps or Sleeps()
    throttle = Throttle(rate, sleeps, sleeps.sleep)
    return ScrubWorker(bed.coordinator.services, throttle, INTERVAL_S)


async def run_pass(worker: ScrubWorker) -> int:
    """How many steps it took."""
    steps = 1
    while await worker.step():
        steps += 1
    return steps


async def test_a_pass_looks_at_everything_once_and_rests(bed: Bed) -> None:
    ids = [await put(bed.http, content(5000, f"pass {number}")) for number in range(40)]
    first, fifth = [(await bed.segments(ids[at]))[0] for at in (0, 5)]
    bed.rot(first, 8)
    bed.lose(fifth, 0)
    worker = scrubber(bed)
    assert await run_pass(worker) == 3
    progress = progress_of(await bed.coordinator.metadata.job_states())
    assert (progress.running, progress.segments) == (False, 40)
    assert (progress.whole, progress.to_repair, progress.unchecked) == (38, 2, 0)
    assert progress.verified_at_s >= progress.began_at_s > 0
    assert await queued(bed) == {8: 2}
    times = [(await verified_at(bed, id_))[0] for id_ in ids]
    assert [at for at, time in enumerate(times) if not time] == [0, 5]
    reads = [node.reads for node in bed.cluster.memory.values()]
    assert await run_pass(worker) == 1
    assert [node.reads for node in bed.cluster.memory.values()] == reads


async def test_a_pass_goes_on_where_another_process_stopped(bed: Bed) -> None:
    for number in range(40):
        await put(bed.http, content(5000, f"goes on {number}"))
    assert await scrubber(bed).step()
    assert progress_of(await bed.coordinator.metadata.job_states()).segments == 16
    assert await run_pass(scrubber(bed)) == 2
    assert progress_of(await bed.coordinator.metadata.job_states()).segments == 40


async def test_a_pass_that_reached_not_everything_has_not_verified_everything(bed: Bed) -> None:
    await put(bed.http, content(5000, "reached"))
    bed.away(3)
    await run_pass(scrubber(bed))
    progress = progress_of(await bed.coordinator.metadata.job_states())
    assert (progress.unchecked, progress.verified_at_s) == (1, 0)


async def test_what_else_is_wrong_does_not_hide_that_not_everything_was_reached(bed: Bed) -> None:
    id_ = await put(bed.http, content(5000, "hidden"))
    bed.lose((await bed.segments(id_))[0], 0)
    bed.away(3)
    await run_pass(scrubber(bed))
    progress = progress_of(await bed.coordinator.metadata.job_states())
    assert (progress.to_repair, progress.unchecked, progress.verified_at_s) == (1, 1, 0)


async def test_a_pass_that_found_what_is_not_whole_does_not_call_it_verified(bed: Bed) -> None:
    id_ = await put(bed.http, content(5000, "not whole"))
    for index in range(4):
        bed.lose((await bed.segments(id_))[0], index)
    await run_pass(scrubber(bed))
    async with Client(bed.url) as client:
        said = await client.scrub_status()
    assert said["stripes"]["verified_at_s"] > 0
    text = "\n".join(scrub_lines(said))
    assert "all looked at  20" in text
    assert "verified" not in text.lower()


async def test_a_pass_can_be_asked_for(bed: Bed) -> None:
    await put(bed.http, content(5000, "asked for"))
    worker = scrubber(bed)
    await run_pass(worker)
    bed.away(9)
    async with Client(bed.url) as client:
        asked = await client.start_scrub()
        assert "a pass was asked for" in scrub_lines(await client.scrub_status())[0]
        await run_pass(worker)
        said = await client.scrub_status()
    assert said["stripes"]["served"] == asked["wanted"] == 1
    assert [node.get("passes") for node in asked["nodes"]] == [*[0] * 8, None]
    assert [node.get("passes") for node in said["nodes"]] == [*[1] * 8, None]
    assert said["nodes"][8]["error"] == "node 9 is away"
    assert str(not_looked_at(said, asked)) == (
        "not everything was looked at: of 1 of 1 segments some shards could not be reached; "
        "node-9: node 9 is away"
    )
    said["stripes"]["unchecked"] = 0
    assert not_looked_at(said, {"nodes": []})
    said["nodes"].pop()
    assert not_looked_at(said, asked)  # what did not begin a pass did not end it
    assert not not_looked_at(said, {"nodes": []})
    said["nodes"].append({"name": "node-9", "error": "node 9 is away"})
    lines = scrub_lines(said)
    assert "no pass runs" in lines[0]
    assert lines[-1].split()[:4] == ["node-9", "node", "9", "is"]
    assert await want_pass(bed.coordinator.metadata, ScrubWorker.name) == 2


async def test_a_pass_keeps_to_its_rate(bed: Bed) -> None:
    data_bytes = 6000
    for number in range(10):
        await put(bed.http, content(data_bytes, f"rate {number}"))
    sleeps = Sleeps()
    await run_pass(scrubber(bed, sleeps, rate=1000.0))
    assert sleeps.now_s == pytest.approx(10 * data_bytes * 9 / 6 / 1000)


async def test_durability_counts_from_the_scrub(bed: Bed) -> None:
    async def scrub_h() -> tuple[float, str]:
        async with bed.http.get("/-/admin/durability") as answer:
            assumed = (await answer.json())["assumed"]
        return assumed["scrub_h"], assumed["scrub_h_is"]

    assert "no scrub has seen all" in (await scrub_h())[1]
    await run_pass(scrubber(bed))
    assert await scrub_h() == (720.0, "the interval of scrubs")
    await nodes_were_scrubbed(bed, hours_ago=0, interval_h=168)
    assert await scrub_h() == (168.0, "the interval of the nodes' scrubs")  # the next look
    await nodes_were_scrubbed(bed, hours_ago=167, interval_h=168)
    assert (await scrub_h())[0] == 168.0
    await nodes_were_scrubbed(bed, hours_ago=200, interval_h=168)
    hours, source = await scrub_h()
    assert hours == pytest.approx(200, abs=0.1)
    assert source == "the age of the oldest scrub of a node"


async def nodes_were_scrubbed(bed: Bed, hours_ago: int, interval_h: int) -> None:
    """Node 9 at that time, all others later."""
    at_s = int(time.time()) - hours_ago * 3600
    for number in range(1, 10):
        report = report_of(
            number,
            verified_at=at_s if number == 9 else int(time.time()),
            scrub_interval_s=interval_h * 3600,
            free_bytes=10**9,
        )
        await bed.cluster.membership.report(report, os.urandom(16))


# The commands, on real nodes


def test_the_commands(cluster: LocalCluster, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(content(20_000, "verify command"))
    id_ = run_sixfold("put", str(path), "--url", cluster.url).split()[0]
    assert run_sixfold("verify", id_, "--url", cluster.url).startswith(f"{id_}: whole, 9 shards")
    lines = run_sixfold("scrub", "--wait", "--url", cluster.url).splitlines()
    assert "no pass runs" in lines[0]
    assert [line.split()[2] for line in lines[-9:]] == ["done"] * 9
    assert "all looked at" in run_sixfold("scrub", "--status", "--url", cluster.url)


def test_the_command_on_what_is_deleted(cluster: LocalCluster, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(content(20_000, "verify deleted"))
    id_ = run_sixfold("put", str(path), "--url", cluster.url).split()[0]
    run_sixfold("rm", id_, "--url", cluster.url)
    done = sixfold("verify", id_, "--url", cluster.url)
    assert done.stdout == f"{id_}: deleted; whole, 9 shards of 1 segments are good\n"
    assert (done.returncode, done.stderr) == (
        3, f"sixfold: no such content: {id_}: it is deleted\n",
    )  # fmt: skip


def test_the_commands_tell_what_they_did_not_get_at(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(content(20_000, "away"))
    with local_cluster(tmp_path / "cluster", 4) as cluster:
        id_ = run_sixfold("put", str(path), "--url", cluster.url).split()[0]
        cluster.kill("node-2")
        cluster.wait_for("suspect", "node-2")
        verified = sixfold("verify", id_, "--url", cluster.url)
        assert (verified.returncode, verified.stderr) == (
            8, f"sixfold: {id_} is not whole: there are shards that cannot be had\n",
        )  # fmt: skip
        scrubbed = sixfold("scrub", "--wait", "--url", cluster.url)
        assert scrubbed.returncode == 8
        assert scrubbed.stderr.startswith(
            "sixfold: not everything was looked at: of 1 of 1 segments some shards could not be "
            "reached; node-2: "
        )
        status = sixfold("scrub", "--status", "--url", cluster.url)
        assert (status.returncode, status.stderr) == (0, "")

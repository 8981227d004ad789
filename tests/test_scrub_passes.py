"""Scrub: whole stripes are read in passes, and what is bad is queued."""

import os
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from coordinator.scrub import ScrubWorker, progress_of
from coordinator.throttle import Throttle
from coordinator.wanted import want_pass
from sixfold.care_errors import not_looked_at
from sixfold.care_words import scrub_lines
from sixfold.client import Client
from tests.blobs import content, put
from tests.reports import report_of
from tests.test_verify import SEGMENT, Sleeps, queued, verified_at
from tests.whole_path import Bed, memory_bed

INTERVAL_S = 1000.0


@pytest.fixture
async def bed(tmp_path: Path) -> AsyncIterator[Bed]:
    async with memory_bed(tmp_path, jobs=False, segment_bytes=SEGMENT) as running:
        yield running


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

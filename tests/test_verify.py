"""Verify: whole stripes are read, what is bad is queued, what is good is said to be."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from common.errors import Corrupt, NotFound, Unavailable
from common.hashing import blake3_digest
from common.ids import ContentId
from common.shards import ShardRecord
from coordinator.repair import RepairWorker
from coordinator.throttle import Throttle
from sixfold.care_errors import not_found, not_whole
from sixfold.care_words import verify_lines
from sixfold.client import Client
from tests.blobs import UNKNOWN, content, get, put
from tests.local_cluster import LocalCluster, local_cluster, run_sixfold, sixfold
from tests.whole_path import Bed, memory_bed

SEGMENT = 96 * 1024


class Sleeps:
    """A clock that only sleeping moves."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s

    async def sleep(self, wait_s: float) -> None:
        self.now_s += wait_s


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

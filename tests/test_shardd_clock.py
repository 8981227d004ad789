"""A node whose time of day is wrong, or is set: orphans are kept their week, scrub goes on."""

import logging
from pathlib import Path

import pytest

from shardd.clock import FILE_NAME, KEEP_EVERY_S, NodeClock
from shardd.identity import DataDirectory
from shardd.store import VolumeStore
from shardd.upkeep import DAY_S
from tests.disks.faulty import EIO, faulty
from tests.stores import make_shard
from tests.torture.storage_node import WithoutSync
from tests.upkeep import NodeTime, addresses_of, append_all, opened, shards_of

SHARDS = shards_of(range(8))
WEEK_S = 7 * DAY_S


async def put_aside(store: VolumeStore) -> None:
    await append_all(store, SHARDS)
    assert await store.upkeep.quarantine.set_aside(addresses_of(SHARDS[:2])) == 2


async def expired(store: VolumeStore) -> int:
    return await store.upkeep.quarantine.expire(WEEK_S)


@pytest.mark.parametrize("behind_s", [DAY_S, 8 * DAY_S, 365 * DAY_S])
async def test_a_clock_that_was_behind_ends_no_quarantine_early(
    tmp_path: Path, behind_s: float
) -> None:
    time = NodeTime(error_s=-behind_s)
    async with opened(tmp_path, clocks=time.clocks) as store:
        await put_aside(store)
    time.error_s = 0  # set right
    time.true_s += WEEK_S - 1
    async with opened(tmp_path, clocks=time.clocks) as store:
        assert await expired(store) == 0
        time.true_s += 1
        assert await expired(store) == 2


async def test_a_clock_that_was_ahead_prolongs_no_quarantine(tmp_path: Path) -> None:
    time = NodeTime(error_s=365 * DAY_S)
    async with opened(tmp_path, clocks=time.clocks) as store:
        await put_aside(store)
        time.error_s = 0
        time.true_s += WEEK_S
        assert await expired(store) == 2


async def test_while_the_machine_is_off_time_stands_still(tmp_path: Path) -> None:
    time = NodeTime()
    async with opened(tmp_path, clocks=time.clocks) as store:
        await put_aside(store)
        for _ in range(3):
            time.true_s += KEEP_EVERY_S
            assert await store.upkeep._tick() is False
        time.true_s += KEEP_EVERY_S - 1  # not kept
        await store.upkeep._tick()
    time.true_s += 30 * DAY_S
    time.restart()
    for _ in range(2):  # a process that ends loses nothing, whether it has kept anything or not
        time.true_s += 1
        async with opened(tmp_path, clocks=time.clocks) as store:
            pass
    async with opened(tmp_path, clocks=time.clocks) as store:
        time.true_s += WEEK_S - 3 * KEEP_EVERY_S - 2
        assert await expired(store) == 0
        time.true_s += 1
        assert await expired(store) == 2


@pytest.mark.parametrize("text", ["", "{}", '{"now_s": "x"}', "[1]", None])
async def test_a_clock_that_is_damaged_or_gone_ends_no_quarantine_early(
    tmp_path: Path, text: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    """Nobody knows how long the machine was off: the week of all that is there begins anew."""
    time = NodeTime(error_s=400 * DAY_S)
    async with opened(tmp_path, clocks=time.clocks) as store:
        await put_aside(store)
    (tmp_path / FILE_NAME).unlink()
    if text is not None:
        (tmp_path / FILE_NAME).write_text(text)
    time.true_s += WEEK_S
    time.restart()
    with caplog.at_level(logging.WARNING):
        async with opened(tmp_path, clocks=time.clocks) as store:
            time.true_s += WEEK_S - 1
            assert await expired(store) == 0
            time.true_s += 1
            assert await expired(store) == 2
    assert (FILE_NAME in caplog.text) == (text is not None)


def test_a_flipped_bit_does_not_set_the_clock(tmp_path: Path) -> None:
    """It has a checksum: orphans were a year older, and went, by a digit that had rotted."""
    time, disk = NodeTime(), WithoutSync()
    directory = DataDirectory(tmp_path, "node-1", disk)
    used_s = time.true_s - 5

    def clock() -> NodeClock:
        return NodeClock(directory, disk, time.clocks, lambda: used_s)

    clock()
    time.true_s += DAY_S
    file, told_s = tmp_path / FILE_NAME, used_s + DAY_S
    good = file.read_bytes()
    assert clock()() == told_s
    for bit in range(8 * len(good)):
        damaged = bytearray(good)
        damaged[bit // 8] ^= 1 << bit % 8
        file.write_bytes(damaged)
        assert clock()() in (told_s, used_s), damaged
    directory.close()


async def test_a_disk_that_does_not_take_the_clock_keeps_no_node_from_starting(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with opened(tmp_path):
        pass
    (tmp_path / FILE_NAME).unlink()
    with faulty() as disk:
        disk.script("pwritev", EIO, file_name=f"{FILE_NAME}.tmp")
        async with opened(tmp_path, disk=disk) as store:
            await store.append([make_shard(100, 1)])
    assert "cannot be kept" in caplog.text


async def scrub_all(store: VolumeStore) -> int:
    steps = 0
    while await store.scrub_once():
        steps += 1
        assert steps < 100, "scrub does not come to an end"
    return steps


async def test_a_scrub_from_the_future_is_followed_by_another_at_once(tmp_path: Path) -> None:
    time = NodeTime(error_s=365 * DAY_S)
    async with opened(tmp_path, clocks=time.clocks) as store:
        await append_all(store, SHARDS)
        assert await scrub_all(store) > 0
        time.error_s = 0
        assert await scrub_all(store) > 0
        report = store.upkeep.scrub_report()
        assert (report.passes, report.running) == (2, False)
        assert report.verified_at == report.started_at == time.true_s
        assert await scrub_all(store) == 0  # for a week
        time.true_s += WEEK_S
        assert await scrub_all(store) > 0


async def test_a_scrub_that_runs_while_the_clock_is_set_back_comes_to_an_end(
    tmp_path: Path,
) -> None:
    """What it verifies from then on seemed to be older than the pass, and was due again."""
    time = NodeTime(error_s=365 * DAY_S)
    async with opened(tmp_path, clocks=time.clocks) as store:
        await append_all(store, SHARDS)
        assert await store.scrub_once()
        time.error_s = 0
        await scrub_all(store)
        report = store.upkeep.scrub_report()
        assert (report.passes, report.verified_at) == (1, time.true_s)

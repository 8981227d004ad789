"""The background work of a node: it begins by itself, bears errors, and ends when told to."""

import asyncio
import errno
from collections.abc import Callable
from pathlib import Path

import pytest

from common.errors import BadSetting
from common.record import HEADER_BYTES
from common.settings import make_settings
from common.units import GIB, MIB
from shardd import upkeep
from shardd.config import Config
from shardd.entries import Entry
from shardd.store import StoreLimits
from shardd.throttle import Clocks
from shardd.upkeep import UpkeepLimits
from shardd.volume import volume_name
from tests.bad_sectors import BadSectors
from tests.flips import flip_one, live_entries
from tests.stores import make_shard
from tests.upkeep import (
    NodeTime,
    addresses_of,
    append_all,
    check,
    held,
    opened,
    shards_of,
    without_index,
)

LIMITS = StoreLimits(
    volume_bytes=MIB // 4,
    upkeep=UpkeepLimits(
        compact_bytes_per_s=100 * GIB, scrub_bytes_per_s=100 * GIB, quarantine_s=100
    ),
)


@pytest.fixture(autouse=True)
def restless(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(upkeep, "_REST_S", 0.001)


async def until(condition: Callable[[], bool]) -> None:
    while not condition():
        await asyncio.sleep(0.001)


async def test_a_node_looks_after_itself(tmp_path: Path) -> None:
    time, shards = NodeTime(), shards_of(range(60))
    async with opened(tmp_path, LIMITS, clocks=time.clocks) as store:
        await append_all(store, shards)
        flip_one(store, live_entries(store)[0], 140)
        bad = live_entries(store)[0].info.address
        rest = [shard for shard in shards if shard.address != bad]
        await store.upkeep.quarantine.set_aside(addresses_of(rest[:3]))
        await store.delete(addresses_of(rest[3:50]))
        before = store._volumes.used_bytes
        store.upkeep.start()
        await until(lambda: store.upkeep.quarantine.bad_shards == 1)
        await until(lambda: store._volumes.used_bytes < before / 2)
        await check(store, rest[50:], rest[:50])
        assert len(store.upkeep.quarantine.page(None, 10)) == 4
        time.true_s += 100
        store.upkeep.may_drop = lambda: True  # a coordinator says that deletes are allowed
        await until(lambda: len(store.upkeep.quarantine.page(None, 10)) == 1)


async def test_what_fails_is_tried_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with opened(tmp_path, LIMITS) as store:
        await store.append(shards_of(range(8)))
        step, calls = store.upkeep.scrubber._go_on, 0

        async def fail_twice() -> None:
            nonlocal calls
            calls += 1
            if calls == 1:
                raise OSError(errno.ENOSPC, "planned")
            if calls == 2:
                raise ZeroDivisionError("a defect")
            await step()

        monkeypatch.setattr(store.upkeep.scrubber, "_go_on", fail_twice)
        store.upkeep.start()
        await until(lambda: store.upkeep.scrub_report().passes == 1)
    assert "planned" in caplog.text
    assert "a defect" in caplog.text


async def test_it_stops_in_the_middle(tmp_path: Path) -> None:
    """Both copy and read for ever, as the throttle never lets them go on."""
    never, asleep = asyncio.Event(), 0

    async def sleep(seconds: float) -> None:
        nonlocal asleep
        asleep += 1
        await never.wait()

    shards = [make_shard(MIB, seed) for seed in range(20)]
    limits = StoreLimits(volume_bytes=64 * MIB)
    async with opened(tmp_path, limits, clocks=Clocks(steady_s=lambda: 1.0, sleep=sleep)) as store:
        await append_all(store, shards)
        await store.delete(addresses_of(shards[:12]))
        store.upkeep.start()
        await until(lambda: asleep == 2)
    async with opened(tmp_path, limits) as store:
        await check(store, shards[12:], shards[:12])
        report = store.upkeep.scrub_report()
        assert report.running
        assert report.scanned_bytes > 0
        assert await store.compact_once()
        await check(store, shards[12:], shards[:12])


@pytest.mark.parametrize("turns", range(4))
async def test_it_stops_right_after_something_was_wanted(
    turns: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is wanted and the order to stop come in the same turns of the event loop."""
    monkeypatch.setattr(upkeep, "_REST_S", 3600)
    wanted = asyncio.Event()

    async def nothing_to_do() -> bool:
        wanted.clear()
        return False

    task = asyncio.create_task(upkeep._repeat(nothing_to_do, wanted))
    await turns_of_the_loop(10)
    wanted.set()
    await turns_of_the_loop(turns)
    task.cancel()
    await turns_of_the_loop(10)
    assert task.done()


async def turns_of_the_loop(count: int) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


async def test_scrub_does_not_spin_over_a_volume_that_is_gone(tmp_path: Path) -> None:
    """Nobody has compacted it: somebody has deleted the directory."""
    async with opened(tmp_path, LIMITS) as store:
        await append_all(store, shards_of(range(8)))
        (entry, *_) = live_entries(store)
        (tmp_path / "volumes" / volume_name(entry.volume)).unlink()
        store.upkeep.scrubber.start()
        for _ in range(2):
            with pytest.raises(FileNotFoundError):
                await store.scrub_once()
        store.upkeep.scrubber.suspect(entry.key)
        with pytest.raises(FileNotFoundError):
            await store.scrub_once()


async def test_scrub_goes_on_when_its_volume_is_compacted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the look at the index and the opening of the file."""
    shards, loop = [make_shard(70_000, seed) for seed in range(12)], asyncio.get_running_loop()
    async with opened(tmp_path, LIMITS) as store:
        await append_all(store, shards)
        await store.delete(addresses_of(shards[1:8]))
        live_in = store._catalog.live_in

        def live_in_and_compact(volume: int, after: int, limit: int) -> list[Entry]:
            monkeypatch.undo()
            found = live_in(volume, after, limit)
            while asyncio.run_coroutine_threadsafe(store.compact_once(), loop).result():
                pass
            return found

        monkeypatch.setattr(store._catalog, "live_in", live_in_and_compact)
        store.upkeep.scrubber.start()
        await store.scrub_once()
        assert 1 not in store._volumes.by_number
        while store.upkeep.scrub_report().running:
            await store.scrub_once()
        await check(store, shards[:1] + shards[8:], shards[1:8])
        assert store.upkeep.scrub_report().bad == 0


@pytest.mark.parametrize("size", [600, 6000, 70_000])
async def test_recovery_bears_sectors_that_cannot_be_read(tmp_path: Path, size: int) -> None:
    shards, disk = [make_shard(size, seed) for seed in range(30)], BadSectors()
    async with opened(tmp_path, LIMITS) as store:
        await append_all(store, shards)
        entries = live_entries(store)
    hit = entries[7]
    page = (hit.offset + 300) & -4096
    disk.bad.add((volume_name(hit.volume), page))
    without_index(tmp_path)
    lost = {
        entry.key
        for entry in entries
        if entry.volume == hit.volume
        if entry.offset < page + 4096 and page < entry.offset + HEADER_BYTES + size
    }
    assert 1 <= len(lost) <= 8
    async with opened(tmp_path, LIMITS, disk) as store:
        assert await held(store, shards) == [shard.address.key not in lost for shard in shards]
        await store.append(shards)
        await check(store, shards, [])


@pytest.mark.parametrize(
    "bad", [{"scrub_bytes_per_s": "0"}, {"compact_percent": "0"}, {"compact_percent": "x"},
            {"quarantine_s": "-1"}]
)  # fmt: skip
def test_settings_that_make_no_sense_are_refused(bad: dict[str, str]) -> None:
    given = {"join": "http://x", "data": "d", "secret_file": "s"}
    assert make_settings(Config, given).store_limits.upkeep == UpkeepLimits()
    with pytest.raises(BadSetting):
        make_settings(Config, given, bad)

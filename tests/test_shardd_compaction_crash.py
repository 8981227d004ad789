"""A crash at each step of compaction: nothing is lost, and nothing comes back."""

import asyncio
import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from common.errors import StoreReadOnly
from common.failpoints import ENVIRONMENT, EXIT_CODE, Point, armed
from common.shards import ShardRecord
from tests.upkeep import (
    addresses_of,
    append_all,
    bytes_on_disk,
    check,
    compact_all,
    opened,
    shards_of,
    snapshot,
    volume_files,
    with_index_of,
    without_index,
)


async def test_nothing_is_removed_from_a_directory_that_is_another_nodes_by_now(
    tmp_path: Path,
) -> None:
    shards, path = shards_of(range(1, 30)), tmp_path / "node"
    async with opened(tmp_path / "other") as store:
        await append_all(store, shards)
    there = volume_files(tmp_path / "other")
    async with opened(path) as store:
        await append_all(store, shards)
        await store.delete(addresses_of(shards))

        def swap() -> None:
            path.rename(tmp_path / "aside")
            (tmp_path / "other").rename(path)

        with armed(Point.COMPACT_FORGOTTEN, swap), pytest.raises(StoreReadOnly):
            await compact_all(store)
        assert [file.name for file in volume_files(path)] == [file.name for file in there]


STEPS = [point for point in Point if point.startswith("compact-")]
SHARDS = shards_of(range(60))
LIVE = [shard for at, shard in enumerate(SHARDS) if at % 3 == 0 or 40 <= at < 44]
DEAD = [shard for shard in SHARDS if shard not in LIVE]

_COMPACT_AND_END = """
import asyncio, os, sys
from pathlib import Path
from common import failpoints
from tests.upkeep import compact_all, opened

async def main():
    async with opened(Path(sys.argv[1])) as store:
        failpoints.arm(os.environ[failpoints.ENVIRONMENT], os._exit)
        await compact_all(store)

asyncio.run(main())
"""


async def make_garbage(path: Path) -> None:
    """Some die in the volume of their tombstone, some elsewhere, some twice."""
    async with opened(path) as store:
        await append_all(store, SHARDS)
        await store.delete(addresses_of(DEAD[:20]))
        await store.append(DEAD[5:10])
        await store.delete(addresses_of(DEAD))


async def check_and_finish(path: Path) -> None:
    """Right after recovery, after compaction has gone on, and from the volumes alone."""
    async with opened(path) as store:
        await check(store, LIVE, DEAD)
        await compact_all(store)
        await check(store, LIVE, DEAD)
    kept_bytes = sum(len(shard.payload) for shard in LIVE)
    assert bytes_on_disk(path) < 1.6 * kept_bytes
    without_index(path)
    async with opened(path) as store:
        await check(store, LIVE, DEAD)
        await store.delete(addresses_of(LIVE))
        await compact_all(store)
        await check(store, [], SHARDS)
    assert bytes_on_disk(path) <= 2 * 4096


def keep(path: Path) -> None:
    pass


@pytest.mark.parametrize("index", ["kept", "lost", "old"])
@pytest.mark.parametrize("step", STEPS)
async def test_a_crash_at_each_step(tmp_path: Path, step: Point, index: str) -> None:
    """Every time that the step is reached is a crash of its own."""
    data, crashes = tmp_path / "data", list[Path]()
    await make_garbage(data)
    before = snapshot(data, tmp_path / "before")

    def crash() -> None:
        crashes.append(snapshot(data, tmp_path / f"crash{len(crashes)}"))

    async with opened(data) as store:
        with armed(step, crash):
            await compact_all(store)
    assert crashes
    change: dict[str, Callable[[Path], None]] = {
        "kept": keep, "lost": without_index, "old": with_index_of(before),
    }  # fmt: skip
    for path in crashes:
        change[index](path)
        await check_and_finish(path)


@pytest.mark.parametrize("step", STEPS)
async def test_a_process_that_is_killed_at_each_step(tmp_path: Path, step: Point) -> None:
    """And started again, and killed one visit to the step later."""
    await make_garbage(tmp_path)
    codes: list[int] = []
    while not codes or codes[-1] != 0:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-c", _COMPACT_AND_END, str(tmp_path),
            env={**os.environ, ENVIRONMENT: f"{step}:{len(codes) + 1}"},
        )  # fmt: skip
        codes.append(await process.wait())
        assert codes[-1] in (0, EXIT_CODE)
        async with opened(tmp_path) as store:
            await check(store, LIVE, DEAD)
    assert len(codes) > 1
    await check_and_finish(tmp_path)


async def test_a_crash_after_what_was_copied_was_deleted(tmp_path: Path) -> None:
    """Both copies are there, one in a volume that the index may not know any more."""
    data = tmp_path / "data"
    await make_garbage(data)
    victims: list[ShardRecord] = LIVE[:10]
    for step in STEPS:
        path = snapshot(data, tmp_path / step)
        crash = tmp_path / f"{step}-crash"
        async with opened(path) as store:

            def stop(path: Path = path, crash: Path = crash) -> None:
                snapshot(path, crash)
                raise InterruptedError

            with armed(step, stop), pytest.raises((InterruptedError, StoreReadOnly)):
                await compact_all(store)
        async with opened(crash) as store:
            await store.delete(addresses_of(victims))
            rest = [shard for shard in LIVE if shard not in victims]
            await check(store, rest, DEAD + victims)
            await compact_all(store)
        without_index(crash)
        async with opened(crash) as store:
            await check(store, rest, DEAD + victims)

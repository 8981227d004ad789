"""The database's clock: no process's time of day may end a grace period or a lease."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from common.ids import ContentId
from coordinator.metadata import Metadata, open_metadata
from coordinator.metadata.clock import MachineClock
from tests.metadata_parts import GRACE_S, Clock, due_deletes, segment, single
from tests.torture.clocks import DAY_S, Skewed


@pytest.mark.parametrize("first_error_s", [-DAY_S, 0, DAY_S])
async def test_a_day_of_difference_ends_no_grace_period_and_no_lease(
    tmp_path: Path, first_error_s: float
) -> None:
    machine = Clock()
    clocks = [Skewed(machine, error_s) for error_s in (first_error_s, DAY_S, -DAY_S, 0)]
    processes = [open_metadata(tmp_path, "", GRACE_S, clock) for clock in clocks]
    for process in processes:
        await process.start()
    stored = segment(processes[0])
    await processes[0].commit_content(single(stored))
    await processes[1].unpin(ContentId(stored.id))
    held = await processes[0].take_lease("job", 15)
    for jump_s in (0, DAY_S, -DAY_S):
        for clock in clocks:
            clock.error_s += jump_s
        taken = [await process.take_lease("job", 15) for process in processes]
        assert taken == [held, None, None, None]
        assert [await process.collect(10) for process in processes] == [0] * 4
    for _ in range(GRACE_S // 30 - 1):  # a lease of a session lasts a minute
        machine.now_s += 30
        await renewed(processes)
        assert [await process.collect(10) for process in processes] == [0] * 4
    machine.now_s += 30
    assert await processes[2].collect(10) == 1
    assert await processes[2].take_lease("job", 15) not in (held, None)
    for process in processes:
        await process.close()


async def renewed(processes: list[Metadata]) -> None:
    for process in processes:
        await process._begin_session()


async def test_the_time_of_day_is_what_people_read(tmp_path: Path) -> None:
    clock = Skewed(Clock(), 0)
    metadata = open_metadata(tmp_path, "", GRACE_S, clock)
    await metadata.start()
    clock.error_s = 500
    stored = segment(metadata)
    await metadata.commit_content(single(stored))
    manifest = await metadata.find_content(ContentId(stored.id))
    assert manifest is not None
    assert manifest.created_at_s == int(clock.wall())
    await metadata.close()


@pytest.mark.parametrize("away_s", [-DAY_S, 0, DAY_S])
async def test_after_a_restart_of_the_machine_time_goes_on_from_the_last_tick(
    tmp_path: Path, away_s: float
) -> None:
    """Wherever its clocks stand then."""
    before = Clock()
    metadata = open_metadata(tmp_path, "", GRACE_S, before)
    await metadata.start()
    stored = segment(metadata)
    await metadata.commit_content(single(stored))
    await metadata.unpin(ContentId(stored.id))
    before.now_s += 50
    await metadata.close()  # which ticks
    after = Clock(before.now_s + away_s)
    after.boot = "another boot"
    metadata = open_metadata(tmp_path, "", GRACE_S, after)
    await metadata.start()
    after.now_s += GRACE_S - 51
    assert await metadata.collect(10) == 0
    after.now_s += 1
    assert await metadata.collect(10) == 1
    assert len(await due_deletes(metadata)) == 9
    await metadata.close()


_PROCESS = """
import asyncio, sys, time
real, error_s = time.time, float(sys.argv[2])
time.time = lambda: real() + error_s
from pathlib import Path
from coordinator.metadata import open_metadata

async def main():
    metadata = open_metadata(Path(sys.argv[1]), "", 3600)
    await metadata.start()
    print(await metadata.take_lease("job", 600), await metadata.collect(10), metadata.session)
    sys.stdout.flush()
    sys.stdin.read()  # without closing: the session and its lease stay

asyncio.run(main())
"""


async def test_processes_whose_clocks_differ_by_days(tmp_path: Path) -> None:
    """Real ones, on the kernel's clock: one lease, and nothing is collected early."""
    metadata = open_metadata(tmp_path, "", GRACE_S)
    await metadata.start()
    stored = segment(metadata)
    await metadata.commit_content(single(stored))
    await metadata.unpin(ContentId(stored.id))
    said = [told_by(tmp_path, error_s) for error_s in (DAY_S, -DAY_S, 10 * DAY_S)]
    assert [words[0] == "None" for words in said] == [False, True, True]  # the epoch of its lease
    assert [words[1] for words in said] == ["0", "0", "0"]
    assert len({words[2] for words in said}) == 3
    await metadata.close()


def told_by(path: Path, error_s: float) -> list[str]:
    done = subprocess.run(
        [sys.executable, "-c", _PROCESS, str(path), str(error_s)],
        capture_output=True, text=True, timeout=60, check=True, stdin=subprocess.DEVNULL,
    )  # fmt: skip
    return done.stdout.split()


def test_the_kernels_clock() -> None:
    one, other = MachineClock(), MachineClock()
    assert one.boot == other.boot
    assert len(one.boot) == 36
    seen: list[Callable[[], float]] = [one, other, one]
    times = [clock() for clock in seen]
    assert times == sorted(times)

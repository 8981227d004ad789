"""Leases of jobs and sessions: who does what, among several processes on one database."""

import asyncio

import pytest

from common.errors import SessionLost
from common.ids import ContentId
from coordinator import jobs
from coordinator.jobs import LEASE_S, run_worker
from coordinator.metadata import Metadata, NewContent
from coordinator.metadata.store import SESSION_LEASE_S
from tests.metadata_parts import Clock, seize_lease

ONE, TWO, THREE = (f"{number:032x}" for number in (1, 2, 3))  # instances


# Leases of jobs


async def test_a_lease_is_held_by_one_until_it_expires(
    both: tuple[Metadata, Metadata], clock: Clock
) -> None:
    a, b = both
    first = await a.take_lease("collect", 15)
    assert first
    assert await b.take_lease("collect", 15) is None
    assert await b.take_lease("outbox", 15) == first + 1  # each job has its own
    clock.now_s += 10
    assert await a.take_lease("collect", 15) == first  # renewed
    clock.now_s += 15
    assert await b.take_lease("collect", 15) is None
    clock.now_s += 1
    assert await b.take_lease("collect", 15) == first + 2  # the cluster's epoch, which grew
    assert await a.take_lease("collect", 15) is None


async def test_a_lease_given_back_is_free_at_once(both: tuple[Metadata, Metadata]) -> None:
    a, b = both
    await a.take_lease("collect", 15)
    await b.give_back_lease("collect")  # not B's to give
    assert await b.take_lease("collect", 15) is None
    await a.give_back_lease("collect")
    assert await b.take_lease("collect", 15)


async def test_a_session_that_ran_out_takes_no_lease(
    both: tuple[Metadata, Metadata], clock: Clock
) -> None:
    clock.now_s += SESSION_LEASE_S + 1
    with pytest.raises(SessionLost):
        await both[0].take_lease("collect", 15)


class CountingWorker:
    """Tells of its steps."""

    name = "count"
    rest_s = 0.0

    def __init__(self) -> None:
        self.steps = 0
        self.stepped = asyncio.Event()

    async def step(self) -> bool:
        self.steps += 1
        self.stepped.set()
        return False

    async def more(self) -> None:
        self.stepped.clear()
        await self.stepped.wait()


async def test_a_job_moves_to_another_process_when_its_own_ends(
    both: tuple[Metadata, Metadata],
) -> None:
    workers = CountingWorker(), CountingWorker()
    first = asyncio.create_task(run_worker(workers[0], both[0], 0.001))
    await workers[0].more()
    second = asyncio.create_task(run_worker(workers[1], both[1], 0.001))
    for _ in range(50):
        await workers[0].more()
    assert workers[1].steps == 0
    first.cancel()
    await workers[1].more()
    steps = workers[0].steps
    await workers[1].more()
    assert workers[0].steps == steps
    second.cancel()
    await asyncio.gather(first, second, return_exceptions=True)


class LongWorker:
    """Its step lasts until it is cut short."""

    name = "long"
    rest_s = 0.0

    def __init__(self) -> None:
        self.began, self.ended = asyncio.Event(), asyncio.Event()

    async def step(self) -> bool:
        self.began.set()
        try:
            await asyncio.Event().wait()
        finally:
            self.ended.set()
        return False


async def test_a_lease_is_renewed_during_a_long_step_and_its_loss_ends_the_step(
    both: tuple[Metadata, Metadata], clock: Clock
) -> None:
    worker = LongWorker()
    job = asyncio.create_task(run_worker(worker, both[0], 0.001))
    await worker.began.wait()
    clock.now_s += LEASE_S // 2
    ((session, epoch, _),) = await leases(both[1])
    while await leases(both[1]) != [(session, epoch, int(clock.now_s) + LEASE_S)]:
        await asyncio.sleep(0.001)
    assert not worker.ended.is_set()
    await seize_lease(both[1], "long")
    await worker.ended.wait()
    job.cancel()
    await asyncio.gather(job, return_exceptions=True)
    assert (await leases(both[1]))[0][0] == both[1].session


async def leases(metadata: Metadata) -> list[tuple[int, ...]]:
    return await metadata._read(
        lambda sql: sql.rows("SELECT session, epoch, expires_at FROM job_lease")
    )


# Sessions


async def test_after_a_rebuild_all_processes_begin_new_sessions(
    both: tuple[Metadata, Metadata],
) -> None:
    """Their numbers may have been among those whose generations the rebuild found."""
    a, b = both
    before, content = b.session, NewContent(ContentId(bytes(32)), 0, [], None, [])
    keeping = asyncio.create_task(b.keep_session())
    await a.restore_single_contents()
    with pytest.raises(SessionLost):
        await b.commit_content(content)
    while b.session == before:
        await asyncio.sleep(0.001)
    assert (await b.commit_content(content)).new
    keeping.cancel()
    await asyncio.gather(keeping, return_exceptions=True)


async def test_what_must_never_end_begins_again(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(jobs, "AGAIN_S", 0)
    begun, third = [0], asyncio.Event()

    async def defective() -> None:
        begun[0] += 1
        if begun[0] == 3:
            third.set()
        raise RuntimeError("a defect")

    task = asyncio.create_task(jobs.keep_going("job", defective))
    async with asyncio.timeout(10):
        await third.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert "job: ended with an error, and begins again" in caplog.text

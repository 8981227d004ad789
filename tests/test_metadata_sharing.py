"""What several processes share in one database: reports of nodes, leases of jobs, the right to
write. Each `Metadata` here stands for a process."""

import asyncio
import fcntl
import os
import sqlite3
import subprocess
import sys
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import pytest

from common.errors import Conflict, NotOurTurn, SessionLost, Unauthorized
from common.ids import ContentId
from coordinator.jobs import LEASE_S, run_worker
from coordinator.membership import Membership, NodeState
from coordinator.metadata import Metadata, NewContent, SharedReport, open_metadata
from coordinator.metadata.database import Sql
from coordinator.metadata.sharing import NONCE_KEPT_S
from coordinator.metadata.store import SESSION_LEASE_S
from coordinator.metadata.turns import turn
from tests.reports import ALIVE_S, incoming, report_of

GRACE_S = 3600
ONE, TWO, THREE = (f"{number:032x}" for number in (1, 2, 3))  # instances


class Clock:
    """Seconds, moved by the test."""

    def __init__(self, now_s: float) -> None:
        self.now_s = now_s

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock() -> Clock:
    """The database's."""
    return Clock(1_700_000_000.0)


@pytest.fixture
async def both(tmp_path: Path, clock: Clock) -> AsyncIterator[tuple[Metadata, Metadata]]:
    opened = [open_metadata(tmp_path, "", GRACE_S, clock) for _ in range(2)]
    for metadata in opened:
        await metadata.start()
    yield opened[0], opened[1]
    for metadata in opened:
        await metadata.close()


async def shared_with(metadata: Metadata, since_s: int = 0) -> list[SharedReport]:
    return (await metadata.reports_since(since_s, {}))[1]


# Reports


async def test_a_report_reaches_the_others(both: tuple[Metadata, Metadata], clock: Clock) -> None:
    a, b = both
    node, version = await a.save_report(incoming(1))
    clock.now_s += 3
    assert await shared_with(b) == [SharedReport(node, version, report_of(1), 3)]
    _, later = await b.save_report(incoming(1, used_bytes=200))
    assert later > version
    assert await shared_with(a) == [SharedReport(node, later, report_of(1, used_bytes=200), 0)]


async def test_only_what_is_new_is_read(both: tuple[Metadata, Metadata], clock: Clock) -> None:
    a, b = both
    for number in (1, 2):
        await a.save_report(incoming(number))
    now_s, found = await b.reports_since(0, {})
    known = {shared.node.number: shared.version for shared in found}
    assert (now_s, len(known)) == (int(clock.now_s), 2)
    assert await b.reports_since(now_s, known) == (now_s, [])
    clock.now_s += 5
    node, version = await a.save_report(incoming(2))
    assert await b.reports_since(now_s, known) == (
        now_s + 5, [SharedReport(node, version, report_of(2), 0)]
    )  # fmt: skip


async def test_a_replay_is_refused_by_every_process(
    both: tuple[Metadata, Metadata], clock: Clock
) -> None:
    a, b = both
    await a.save_report(incoming(1, nonce=b"n"))
    for process in both:
        with pytest.raises(Unauthorized, match="replay"):
            await process.save_report(incoming(1, nonce=b"n", used_bytes=7, zone="elsewhere"))
    assert [shared.report for shared in await shared_with(b)] == [report_of(1)]
    assert [row.zone for row in await a.nodes()] == ["default"]
    clock.now_s += NONCE_KEPT_S + 1  # its signature has expired long since
    await b.save_report(incoming(1, nonce=b"n"))


async def test_the_nonce_of_a_refused_report_is_spent(
    both: tuple[Metadata, Metadata], clock: Clock
) -> None:
    a, b = both
    await a.save_report(incoming(1, instance=ONE))
    with pytest.raises(Conflict):
        await b.save_report(incoming(1, nonce=b"n", instance=TWO))
    clock.now_s += ALIVE_S
    with pytest.raises(Unauthorized):
        await a.save_report(incoming(1, nonce=b"n", instance=TWO))


async def test_an_impostor_is_refused_by_a_process_that_never_heard_of_the_node(
    both: tuple[Metadata, Metadata], clock: Clock
) -> None:
    a, b = both
    await a.save_report(incoming(1, instance=ONE))
    clock.now_s += ALIVE_S - 1
    with pytest.raises(Conflict, match="already served"):
        await b.save_report(incoming(1, instance=TWO))
    clock.now_s += 1  # silent for too long to be believed alive
    await b.save_report(incoming(1, instance=TWO))


async def test_whoever_has_seen_a_process_go_takes_its_successor(
    both: tuple[Metadata, Metadata],
) -> None:
    a, b = both
    await a.save_report(incoming(1, instance=ONE))
    await b.save_report(incoming(1, instance=TWO, gone=ONE))
    with pytest.raises(Conflict):  # what A knows is not the last word any more
        await a.save_report(incoming(1, instance=THREE, gone=ONE))


async def test_concurrent_reports_of_processes(both: tuple[Metadata, Metadata]) -> None:
    saved = await asyncio.gather(
        *(both[turn % 2].save_report(incoming(turn // 4)) for turn in range(200))
    )
    assert len({row.number for row, _ in saved}) == 50
    assert len({(row.number, version) for row, version in saved}) == 200


async def test_a_report_of_another_version_of_sixfold_is_passed_over(
    both: tuple[Metadata, Metadata],
) -> None:
    a, b = both
    await a.save_report(incoming(1))
    await a._write(lambda sql: sql.run("UPDATE node_report SET report = ?", '{"new": 1}'))
    assert await shared_with(b) == []
    await a.save_report(incoming(1))
    assert len(await shared_with(b)) == 1


# Membership


def member(metadata: Metadata, clock: Clock) -> Membership:
    return Membership(metadata, clock, 10.0, 900.0)


async def test_a_node_is_active_everywhere(both: tuple[Metadata, Metadata], clock: Clock) -> None:
    a, b = (member(metadata, clock) for metadata in both)
    await b.load()
    linked: list[int] = []
    b.on_report = lambda node: linked.append(node.number)
    number = (await a.report(report_of(1), os.urandom(16))).number
    await b.look()
    assert linked == [number]
    b.nodes[number].reachable = True
    assert b.state(b.nodes[number]) is NodeState.ACTIVE
    b.count_sent(number, 500)
    await b.look()
    assert (linked, b.nodes[number].sent_bytes) == ([number], 500)  # nothing new was said
    clock.now_s += 8
    await a.report(report_of(1), os.urandom(16))
    clock.now_s += 8
    await b.look()
    assert b.state(b.nodes[number]) is NodeState.ACTIVE
    assert b.silent_s(b.nodes[number]) == 8
    clock.now_s += 2
    assert b.state(b.nodes[number]) is NodeState.SUSPECT


async def test_clocks_of_processes_do_not_matter(
    both: tuple[Metadata, Metadata], clock: Clock
) -> None:
    a, b = member(both[0], Clock(5.0)), member(both[1], Clock(900_000.0))
    number = (await a.report(report_of(1), os.urandom(16))).number
    clock.now_s += 4
    await b.look()
    assert b.silent_s(b.nodes[number]) == 4


@pytest.mark.parametrize(("silent_s", "linked"), [(9, True), (10, False)])
async def test_what_a_new_process_knows_at_once(
    both: tuple[Metadata, Metadata], clock: Clock, silent_s: int, linked: bool
) -> None:
    """All nodes; but where one was that fell silent, something else may be by now."""
    number = (await member(both[0], clock).report(report_of(1), os.urandom(16))).number
    clock.now_s += silent_s
    fresh, links = member(both[1], clock), list[int]()
    fresh.on_report = lambda node: links.append(node.number)
    await fresh.load()
    assert fresh.nodes[number].report == report_of(1)
    assert links == ([number] if linked else [])


async def test_what_was_read_before_a_younger_report_came_does_not_undo_it(
    both: tuple[Metadata, Metadata], clock: Clock
) -> None:
    a, b = (member(metadata, clock) for metadata in both)
    number = (await a.report(report_of(1), os.urandom(16))).number
    _, read = await both[1].reports_since(0, {})
    await b.report(report_of(1, data_port=2), os.urandom(16))
    b._take_over(read[0])
    report = b.nodes[number].report
    assert report is not None
    assert report.data_port == 2


async def test_an_impostor_is_refused_by_the_process_that_it_turns_to(
    both: tuple[Metadata, Metadata], clock: Clock
) -> None:
    a, b = (member(metadata, clock) for metadata in both)
    number = (await a.report(report_of(1, instance=ONE), os.urandom(16))).number
    other = report_of(1, instance=TWO)
    with pytest.raises(Conflict):  # B has not looked yet
        await b.report(other, os.urandom(16))
    await b.look()
    b.nodes[number].reachable = True
    with pytest.raises(Conflict):
        await b.report(other, os.urandom(16))
    b.nodes[number].reachable = False  # the first one is gone
    await b.report(other, os.urandom(16))
    await a.look()
    assert a.nodes[number].report == other


# Leases of jobs


async def test_a_lease_is_held_by_one_until_it_expires(
    both: tuple[Metadata, Metadata], clock: Clock
) -> None:
    a, b = both
    assert await a.take_lease("collect", 15) == 1
    assert await b.take_lease("collect", 15) is None
    assert await b.take_lease("outbox", 15) == 1  # each job has its own
    clock.now_s += 10
    assert await a.take_lease("collect", 15) == 1  # renewed
    clock.now_s += 15
    assert await b.take_lease("collect", 15) is None
    clock.now_s += 1
    assert await b.take_lease("collect", 15) == 2
    assert await a.take_lease("collect", 15) is None


async def test_a_lease_given_back_is_free_at_once(both: tuple[Metadata, Metadata]) -> None:
    a, b = both
    await a.take_lease("collect", 15)
    await b.give_back_lease("collect")  # not B's to give
    assert await b.take_lease("collect", 15) is None
    await a.give_back_lease("collect")
    assert await b.take_lease("collect", 15) == 2


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
    expected = (both[0].session, 1, int(clock.now_s) + LEASE_S)
    while await leases(both[1]) != [expected]:
        await asyncio.sleep(0.001)
    assert not worker.ended.is_set()
    await seize(both[1], "long")
    await worker.ended.wait()
    job.cancel()
    await asyncio.gather(job, return_exceptions=True)
    assert (await leases(both[1]))[0][0] == both[1].session


async def leases(metadata: Metadata) -> list[tuple[int, ...]]:
    return await metadata._read(
        lambda sql: sql.rows("SELECT session, epoch, expires_at FROM job_lease")
    )


async def seize(metadata: Metadata, job: str) -> None:
    """As if the lease had run out and this process had been the first to see it."""
    session = metadata.session
    await metadata._write(
        lambda sql: sql.run(
            "UPDATE job_lease SET session = ?, epoch = epoch + 1 WHERE name = ?", session, job
        )
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
    assert await b.commit_content(content)
    keeping.cancel()
    await asyncio.gather(keeping, return_exceptions=True)


# Turns at writing


async def test_a_transaction_has_the_write_lock_from_its_first_read(
    both: tuple[Metadata, Metadata], tmp_path: Path
) -> None:
    def read_and_look(sql: Sql) -> None:
        sql.row("SELECT 1 FROM node")
        with pytest.raises(sqlite3.OperationalError, match="locked"):
            other.execute("BEGIN IMMEDIATE")

    file = tmp_path / "metadata.db"
    with closing(sqlite3.connect(file, 0, isolation_level=None, check_same_thread=False)) as other:
        await both[0]._write(read_and_look)
        other.execute("BEGIN IMMEDIATE")


def test_who_waits_is_next(tmp_path: Path) -> None:
    """A process that writes without a pause cannot overtake another one."""
    path = str(tmp_path / "db")
    with ThreadPoolExecutor(1) as thread:
        with turn(path):
            waiting = thread.submit(take_turn, path)
            while lock_is_free(f"{path}-next"):
                assert not waiting.done()
        # whoever asks now stands behind the one that waits
        assert waiting.result()
    assert lock_is_free(f"{path}-next") and lock_is_free(f"{path}-turn")


def take_turn(path: str) -> bool:
    with turn(path):
        return not lock_is_free(f"{path}-turn")


def lock_is_free(path: str) -> bool:
    with Path(path).open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True


async def test_a_process_that_hangs_in_its_turn_is_an_error_for_the_others(
    both: tuple[Metadata, Metadata], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("coordinator.metadata.turns.WAIT_S", 0.01)
    with (tmp_path / "metadata.db-turn").open("a") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        changes = [both[0].take_lease(name, 15) for name in ("collect", "outbox")]
        outcomes = await asyncio.gather(*changes, return_exceptions=True)
        assert [type(outcome) for outcome in outcomes] == [NotOurTurn] * 2
        assert await both[0].nodes() == []  # reading needs no turn
    assert await both[0].take_lease("collect", 15) == 1


def test_a_process_that_dies_loses_its_turn(tmp_path: Path) -> None:
    path = str(tmp_path / "db")
    code = (
        "import sys, signal; from coordinator.metadata.turns import turn\n"
        "with turn(sys.argv[1]): print('mine', flush=True); signal.pause()"
    )
    command = [sys.executable, "-c", code, path]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"mine\n"
        assert not lock_is_free(f"{path}-turn")
        holder.kill()
    assert take_turn(path)

"""A database that is older than what its nodes have seen: a backup, restored."""

import shutil
import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from functools import partial
from pathlib import Path

import pytest

from common.errors import SessionLost
from coordinator.metadata import Metadata, open_metadata, sessions
from coordinator.metadata.rows import GENERATION_COUNTER_BITS
from coordinator.metadata.sharing import TakenReport
from coordinator.metadata.store import SESSION_LEASE_S
from tests.metadata_parts import GRACE_S, Clock, segment, single
from tests.reports import incoming


@asynccontextmanager
async def running(path: Path, clock: Clock) -> AsyncIterator[Metadata]:
    metadata = open_metadata(path, "", GRACE_S, clock)
    await metadata.start()
    yield metadata
    await metadata.close()


def copy_database(source: Path, target: Path) -> None:
    """As a backup is taken while the coordinator runs."""
    target.mkdir(exist_ok=True)
    (target / "metadata.db").unlink(missing_ok=True)
    with closing(sqlite3.connect(source / "metadata.db")) as database:
        database.execute("VACUUM INTO ?", (str(target / "metadata.db"),))


async def renew(metadata: Metadata) -> None:
    """What keep_session does every 15 s."""
    await metadata._write(
        partial(sessions.renew_session, session=metadata.session, lease_s=SESSION_LEASE_S)
    )


async def report(metadata: Metadata, number: int, epoch: int) -> TakenReport:
    return await metadata.save_report(incoming(number, epoch=epoch))


async def test_the_epoch_grows_with_sessions_and_renewals(
    both: tuple[Metadata, Metadata],
) -> None:
    a, b = both
    first = (await report(a, 1, 0)).epoch
    assert first == b.session
    await renew(a)
    assert (await report(b, 1, first)).epoch == first + 1
    assert (await report(a, 1, first)).epoch == first + 1  # the answer before was lost
    assert await a.deletes_stopped() == ""


@pytest.mark.parametrize("renewals_after", [0, 1, 2, 5])
@pytest.mark.parametrize("runs_before_a_report", [1, 2, 7])
async def test_a_restored_backup_is_found_out(
    tmp_path: Path, clock: Clock, renewals_after: int, runs_before_a_report: int
) -> None:
    """However little happened after the backup, and however much after it was restored."""
    database, backup = tmp_path / "now", tmp_path / "backup"
    async with running(database, clock) as metadata:
        known = (await report(metadata, 1, 0)).epoch
        copy_database(database, backup)
    async with running(database, clock) as metadata:
        for _ in range(renewals_after):
            await renew(metadata)
        known = (await report(metadata, 1, known)).epoch
        lost_session = metadata.session
    shutil.rmtree(database)
    for _ in range(runs_before_a_report):
        async with running(backup, clock) as metadata:
            assert await metadata.deletes_stopped() == ""
    async with running(backup, clock) as metadata:
        await renew(metadata)
        taken = await report(metadata, 1, known)
        assert taken.restored
        assert "older than the nodes" in await metadata.deletes_stopped()
        assert metadata.session > max(known, lost_session)
        assert metadata.new_generation() >> GENERATION_COUNTER_BITS == metadata.session
        again = await report(metadata, 1, taken.epoch)
        assert not again.restored
        assert not again.may_delete
        await metadata.allow_deletes()
        assert (await report(metadata, 1, taken.epoch)).may_delete


async def test_every_process_begins_a_new_session_then(both: tuple[Metadata, Metadata]) -> None:
    a, b = both
    await report(a, 1, 0)
    stored = segment(b)
    assert (await report(a, 1, 1000)).restored
    with pytest.raises(SessionLost):
        await b.commit_content(single(stored))
    assert a.session > 1000
    assert (await a.commit_content(single(segment(a)))).new


async def test_the_operator_allows_deletes_once_for_all_nodes_that_have_reported(
    metadata: Metadata,
) -> None:
    for number in (1, 2):
        await report(metadata, number, 0)
    assert (await report(metadata, 1, 1000)).restored
    session = metadata.session
    taken = await report(metadata, 2, 990)
    assert taken.restored
    assert metadata.session == session + 1
    assert await metadata.allow_deletes()
    assert await metadata.deletes_stopped() == ""
    assert not await metadata.allow_deletes()
    assert not (await report(metadata, 2, taken.epoch)).restored


async def test_a_new_database_for_old_nodes_deletes_nothing(metadata: Metadata) -> None:
    taken = await report(metadata, 1, 57)
    assert taken.restored
    assert taken.epoch > 57
    assert await metadata.deletes_stopped() != ""


async def test_no_reason_hides_another(metadata: Metadata) -> None:
    """An operator who takes his own back must learn that the database is an old one."""
    await metadata.stop_deletes("by hand")
    assert (await report(metadata, 1, 1000)).restored
    assert (await report(metadata, 2, 2000)).restored
    by_hand, alarm = (await metadata.deletes_stopped()).split("; ")
    assert by_hand == "by hand"
    assert alarm.startswith("node-1 has seen epoch 1000")
    assert await metadata.allow_deletes()
    assert await metadata.deletes_stopped() == ""


async def test_an_alarm_outlasts_a_rebuild_that_ran_when_it_was_raised(metadata: Metadata) -> None:
    reason = (await metadata.begin_rebuild()).reason
    assert (await report(metadata, 1, 1000)).restored
    await metadata.resume_deletes(reason)
    stopped = await metadata.deletes_stopped()
    assert stopped.startswith("node-1 has seen epoch 1000")
    await metadata.resume_deletes(reason)
    assert await metadata.deletes_stopped() == stopped


async def test_a_node_that_begins_without_what_it_was_told_is_outdated(metadata: Metadata) -> None:
    """Its directory was put back from a copy. One that has only missed the last answer is not."""
    told = (await metadata.save_report(incoming(1))).epoch
    assert not (await metadata.save_report(incoming(1))).outdated
    one, two, three = (f"{instance:032x}" for instance in (1, 2, 3))
    old = incoming(1, gone=one, instance=two, epoch=told - 1)
    assert (await metadata.save_report(old)).outdated
    late = incoming(1, gone=two, instance=three, epoch=told)
    assert not (await metadata.save_report(late)).outdated

"""A COMMIT whose answer is lost: whether it took effect is unknown, so nothing is undone, nothing
done twice, and whoever asked is told to try again."""

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import pytest

from common.errors import FateUnknown, SessionLost, Unavailable
from common.failpoints import Point, armed
from coordinator.metadata import Metadata
from coordinator.metadata.sql import Sql
from coordinator.metadata.store import SESSION_LEASE_S
from tests.metadata_parts import Clock, due_deletes, segment, several, single


@contextmanager
def one_transaction() -> Iterator[tuple[threading.Event, threading.Event]]:
    """A first transaction is held up before its COMMIT: the one event tells when, the other lets
    it go on. What is asked for meanwhile is done together, and the answer to its COMMIT is lost."""
    held, go_on = threading.Event(), threading.Event()
    commits = 0

    def hold() -> None:
        held.set()
        go_on.wait()

    def lose_the_second() -> None:
        nonlocal commits
        commits += 1
        if commits == 2:
            raise FateUnknown("its fate is unknown")

    with armed(Point.UPLOAD_COMMIT_BEGUN, hold), armed(Point.UPLOAD_COMMITTED, lose_the_second):
        yield held, go_on


async def test_what_was_committed_all_the_same_stays(metadata: Metadata) -> None:
    contents = [several(metadata, [segment(metadata), segment(metadata)]) for _ in range(2)]
    deleted = single(segment(metadata))
    await metadata.commit_content(deleted)
    with one_transaction() as (held, go_on):
        first = asyncio.ensure_future(metadata.commit_content(single(segment(metadata))))
        await asyncio.to_thread(held.wait)
        asked = [asyncio.ensure_future(metadata.commit_content(content)) for content in contents]
        unpinned = asyncio.ensure_future(metadata.unpin(deleted.id))
        await asyncio.sleep(0)
        go_on.set()
        assert (await first).new
        for answer in (*asked, unpinned):
            with pytest.raises(FateUnknown):
                await answer
    for content in contents:
        assert await metadata.find_content(content.id) is not None
        assert not (await metadata.commit_content(content)).new  # the client has tried again
    assert await metadata.find_content(deleted.id) is None
    assert await due_deletes(metadata) == []


async def test_a_commit_that_the_database_fails_is_of_unknown_fate(metadata: Metadata) -> None:
    """A deferred constraint: SQLite finds it broken only when it is to commit."""

    def change(sql: Sql) -> None:
        sql.run("CREATE TABLE parent (id INTEGER PRIMARY KEY)")
        sql.run("CREATE TABLE child (id REFERENCES parent DEFERRABLE INITIALLY DEFERRED)")
        sql.run("INSERT INTO child VALUES (1)")

    with pytest.raises(FateUnknown, match="FOREIGN KEY"):
        await metadata._write(change)
    assert (await metadata.commit_content(single(segment(metadata)))).new  # it goes on


async def test_a_session_is_begun_as_soon_as_the_database_lets_us(
    metadata: Metadata, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    begin, tries = metadata._begin_session, 0

    async def refused_at_first() -> None:
        nonlocal tries
        tries += 1
        if tries == 1:
            raise Unavailable("not now")
        await begin()

    monkeypatch.setattr(metadata, "_begin_session", refused_at_first)
    keeping, lost = asyncio.ensure_future(metadata.keep_session()), metadata.session
    clock.now_s += 2 * SESSION_LEASE_S
    while metadata.session == lost:
        with suppress(SessionLost):
            await metadata.commit_content(single(segment(metadata)))
        await asyncio.sleep(0.001)
        assert not keeping.done()
    assert tries == 2
    keeping.cancel()


async def test_refused_uploads_have_no_unknown_fate(metadata: Metadata, clock: Clock) -> None:
    """Nothing of theirs was in the transaction: what they have written is taken away at once."""

    def lose() -> None:
        raise FateUnknown("its fate is unknown")

    clock.now_s += SESSION_LEASE_S + 1
    with (
        armed(Point.UPLOAD_COMMIT_BEGUN, lose),
        armed(Point.UPLOAD_COMMITTED, lose),
        pytest.raises(SessionLost),
    ):
        await metadata.commit_content(single(segment(metadata)))

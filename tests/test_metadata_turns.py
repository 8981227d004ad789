"""Turns at writing, among several processes on one database."""

import asyncio
import errno
import fcntl
import sqlite3
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import pytest

from common.errors import NotOurTurn
from coordinator.metadata import Metadata, turns
from coordinator.metadata.sql import Sql
from coordinator.metadata.turns import turn
from tests.metadata_parts import segment, single

ONE, TWO, THREE = (f"{number:032x}" for number in (1, 2, 3))  # instances


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
    assert await both[0].take_lease("collect", 15)


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


async def test_without_a_file_descriptor_it_is_not_our_turn(
    metadata: Metadata, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What runs behind bears that, and goes on when there are some again."""

    def none_left(path: str) -> int:
        raise OSError(errno.EMFILE, "Too many open files")

    with monkeypatch.context() as patched:
        patched.setattr(turns, "_open", none_left)
        with pytest.raises(NotOurTurn, match="Too many open files"):
            await metadata.commit_content(single(segment(metadata)))
        with pytest.raises(NotOurTurn):
            await metadata.take_lease("repair", 15)
    assert (await metadata.commit_content(single(segment(metadata)))).new

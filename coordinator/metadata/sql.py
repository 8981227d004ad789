"""Plain SQL on the metadata database, whatever database that is."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from typing import Any, TypeVar

from peewee import Database, PeeweeException

from common.errors import FateUnknown
from coordinator.metadata.own_log import Stamp, new_process
from coordinator.metadata.turns import turn

T = TypeVar("T")

_ROWS_AT_ONCE = 32


class Sql:
    """Statements on one database, written with ``?``, ``{now}`` (its clock, in seconds) and
    ``{wall}`` (the time of day, for people to read)."""

    def __init__(self, database: Database, now: str, wall: str) -> None:
        self.database, self._process = database, new_process()
        self._dialect = cache(
            lambda text: text.format(now=now, wall=wall).replace("?", database.param)
        )

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """All statements of the block or none. Raises NotOurTurn, and nothing has happened, if
        another process does not let us; FateUnknown if COMMIT fails.

        It takes the write lock at once (lock_type): one that began by reading could not write any
        more if another process had written meanwhile (SQLITE_BUSY_SNAPSHOT).
        """
        done = False
        try:
            with turn(str(self.database.database)), self.database.atomic():
                before = self.rows_changed
                yield
                if self.rows_changed != before:
                    self._number()
                done = True
        except PeeweeException as error:
            if done:
                raise FateUnknown(f"COMMIT failed, its fate is unknown: {error}") from error
            raise

    def _number(self) -> None:
        """The transaction that is about to be committed (see own_log)."""
        (number,), (processes,) = (
            self.only("PRAGMA user_version"),
            self.only("PRAGMA application_id"),
        )
        stamp = Stamp.of(number, processes).next_by(self._process)
        self.run(f"PRAGMA user_version = {stamp.number}")
        self.run(f"PRAGMA application_id = {stamp.application_id}")

    def run(self, text: str, *values: Any) -> int:
        """Execute; the number of rows that changed."""
        return int(self._execute(text, values).rowcount)

    def insert(self, text: str, *values: Any) -> int:
        """Insert a row; its number."""
        return int(self._execute(text, values).lastrowid)

    def insert_rows(self, text: str, row: str, rows: Sequence[tuple[Any, ...]]) -> int:
        """Insert many; how many were not there already. `text` contains ``{rows}`` where the values
        go, `row` is how each of them is written."""
        inserted = 0
        for part in _parts(rows):
            values = (value for each in part for value in each)
            inserted += self.run(text.replace("{rows}", ", ".join([row] * len(part))), *values)
        return inserted

    def rows(self, text: str, *values: Any) -> list[tuple[Any, ...]]:
        found: list[tuple[Any, ...]] = self._execute(text, values).fetchall()
        return found

    def row(self, text: str, *values: Any) -> tuple[Any, ...] | None:
        found: tuple[Any, ...] | None = self._execute(text, values).fetchone()
        return found

    def exists(self, text: str, *values: Any) -> bool:
        """Whether the query gives any row."""
        return self.row(text, *values) is not None

    def only(self, text: str, *values: Any) -> tuple[Any, ...]:
        """The row of a query that always gives one."""
        found = self.row(text, *values)
        assert found is not None, text
        return found

    def now_s(self) -> int:
        """By the database's clock."""
        return int(self.only("SELECT {now}")[0])

    def _execute(self, text: str, values: tuple[Any, ...]) -> Any:
        database: Any = self.database  # its stubs leave execute_sql untyped
        return database.execute_sql(self._dialect(text), values)

    @property
    def rows_changed(self) -> int:
        """By this thread's connection since it was opened."""
        database: Any = self.database
        return int(database.connection().total_changes)

    def version(self) -> int:
        """Another one whenever another connection has changed anything, be it of another process.
        Its source: https://sqlite.org/pragma.html#pragma_data_version"""
        database: Any = self.database
        return int(database.connection().execute("PRAGMA data_version").fetchone()[0])

    def rows_in(self, text: str, keys: Iterable[bytes]) -> list[tuple[Any, ...]]:
        """`text` contains ``{keys}`` where the list of keys goes."""
        wanted = list(keys)
        found: list[tuple[Any, ...]] = []
        for at in range(0, len(wanted), 500):
            part = wanted[at : at + 500]
            marks = ",".join("?" * len(part))
            found += self.rows(text.replace("{keys}", marks), *part)
        return found


def _parts(rows: Sequence[T]) -> Iterator[Sequence[T]]:
    """Pieces whose lengths are powers of two: so few statements that all stay prepared."""
    at = 0
    while left := len(rows) - at:
        length = min(_ROWS_AT_ONCE, 1 << (left.bit_length() - 1))
        yield rows[at : at + length]
        at += length

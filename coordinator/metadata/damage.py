"""A metadata database that is damaged: found at the start, or by what it says later on.

SQLite goes on with the pages that it still understands. What such a database says would be served,
contents that it has lost would be called deleted, and what the sweep does not find in it would be
taken for orphans. So from the first sign on nothing of it is believed, and nothing is written.
"""

import logging
import sqlite3
from contextlib import closing
from functools import partial
from pathlib import Path

from common.errors import BadSetting, MetadataDamaged
from common.sqlite_errors import first_cause, is_damage
from coordinator.metadata.own_log import has_log, has_own_log

log = logging.getLogger(__name__)

WAY_OUT = (
    "stop all coordinators; put a backup in its place, with no -wal or -shm beside it, or nothing "
    "and start with --adopt-cluster; then run sixfold admin rebuild-metadata"
)


class ImpossibleRow(Exception):
    """A row that no transaction of ours can have left."""


class Damage:
    """What was found, for all threads; the first finding stays."""

    def __init__(self) -> None:
        self.found = ""

    def check(self) -> None:
        """Raises MetadataDamaged once anything was found."""
        if self.found:
            raise MetadataDamaged(f"the metadata database is damaged: {self.found}; {WAY_OUT}")

    def look_at(self, error: Exception) -> None:
        """Raises MetadataDamaged if that is what this error shows."""
        if isinstance(error, ImpossibleRow) or is_damage(first_cause(error)):
            if not self.found:
                self.found = str(error)
                log.critical("the metadata database is damaged: %s; %s", error, WAY_OUT)
            self.check()


def check_file(path: Path) -> None:
    """Raises BadSetting if there is a database which is not well-formed, or beside the log of
    another one. Beside a log of which that is not certain, the indexes are held against the tables
    too. For a million segments the one takes a second, the other four.

    It only reads: who opens a database to write has merged such a log with it when he closes it.
    """
    if not path.exists() or not path.stat().st_size:
        if has_log(path):  # SQLite would begin a new database, and delete it
            raise BadSetting(
                f"database sqlite:///{path}: there is {path.name}-wal, and not the file that it "
                f"belongs to: {WAY_OUT}"
            )
        return
    address = f"{path.absolute().as_uri()}?mode=ro"
    connect = partial(sqlite3.connect, address, uri=True)
    try:
        kind = "quick" if has_own_log(path, connect) else "integrity"
        with closing(connect()) as database:
            (found,) = database.execute(f"PRAGMA {kind}_check(1)").fetchone()
    except sqlite3.Error as error:
        if not is_damage(error):
            return  # whoever opens it will say what is wrong
        found = str(error)
    if found != "ok":
        found = " ".join(found.split())  # SQLite begins with a heading
        raise BadSetting(f"database sqlite:///{path}: {found}; it is damaged: {WAY_OUT}")

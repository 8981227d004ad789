"""Moves SQLite's committed pages from its log (WAL) into the database file, beside the commits."""

import logging
import threading
from contextlib import suppress

from peewee import PeeweeException

from common.errors import MetadataDamaged
from coordinator.metadata.damage import Damage
from coordinator.metadata.sql import Sql

log = logging.getLogger(__name__)

ROWS_BETWEEN = 1_000


class Checkpointer:
    """A thread, so that no commit waits while thousands of pages find their places all over the
    file. What it leaves behind in a long burst, a commit of SQLite's own accord completes
    (wal_autocheckpoint), which also lets the log begin anew."""

    def __init__(self, sql: Sql, damage: Damage) -> None:
        self._sql, self._damage = sql, damage
        self._rows_seen = 0
        self._wanted = threading.Event()
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="metadata-checkpoints", daemon=True)
        self._thread.start()

    def committed(self, rows_changed: int) -> None:
        """Called after each transaction: how many rows its connection has changed so far."""
        if rows_changed - self._rows_seen >= ROWS_BETWEEN:
            self._rows_seen = rows_changed
            self._wanted.set()

    def close(self) -> None:
        self._closed = True
        self._wanted.set()
        self._thread.join()

    def _run(self) -> None:
        while True:
            self._wanted.wait()
            self._wanted.clear()
            if self._closed:
                break
            try:
                self._sql.rows("PRAGMA wal_checkpoint(PASSIVE)")
            except PeeweeException as error:
                log.warning("checkpoint: %s", error)
                with suppress(MetadataDamaged):  # is told to whoever asks the database next
                    self._damage.look_at(error)
        self._sql.database.close()

"""Opens the metadata database: its settings, its schema brought forward, its clock."""

from pathlib import Path
from uuid import uuid4

from peewee import SqliteDatabase

from common.errors import BadSetting, WrongCluster
from coordinator.metadata.clock import Clock, MachineClock
from coordinator.metadata.damage import check_file
from coordinator.metadata.migrations import migrate
from coordinator.metadata.models import proxy
from coordinator.metadata.sql import Sql

SQLITE_PRAGMAS = {
    "busy_timeout": 30_000,  # first: the next one may have to wait for another process
    "journal_mode": "wal",
    "synchronous": "full",
    "foreign_keys": 1,
    "temp_store": "memory",  # else every insert of many rows opens a file of its own
    "cache_size": -32_768,  # KiB, for each of the two threads
    # As much as SQLite allows. A page not in the cache costs a third of what a read() does; but an
    # I/O error on one ends the process.
    "mmap_size": 1 << 40,
    "wal_autocheckpoint": 8_000,  # pages; before that, Checkpointer does it beside the commits
}


def open_database(url: str, clock: Clock | None = None, cluster_id: str = "") -> Sql:
    """Connect to ``sqlite:///path`` and migrate. `cluster_id`, if given, is that of a new
    database. Raises BadSetting for other URLs and for a damaged file, WrongCluster for another
    cluster's database."""
    scheme, separator, path = url.partition(":///")
    if not separator or scheme != "sqlite" or not path:
        raise BadSetting(f"database: need sqlite:///path, not {url!r}")
    check_file(Path(path))
    database = SqliteDatabase(path, pragmas=SQLITE_PRAGMAS, lock_type="IMMEDIATE")
    times = _Times(clock or MachineClock())
    database.register_function(times.now_s, "sixfold_now", 0)
    database.register_function(times.wall_s, "sixfold_wall", 0)
    database.register_function(int.bit_count, "sixfold_bits", 1)
    proxy.initialize(database)
    sql = Sql(database, "sixfold_now()", "sixfold_wall()")
    try:
        with sql.transaction():
            migrate(sql, cluster_id or uuid4().hex)
            times.take_over(sql)
        found = sql.row("SELECT cluster_id FROM cluster")
        if found and cluster_id and found[0] != cluster_id:
            raise WrongCluster(f"{url} belongs to cluster {found[0]}, not {cluster_id}")
    except BaseException:
        database.close()
        raise
    return sql


class _Times:
    """What SQLite calls for the time, in whole seconds (see `clock`)."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._offset_s = self.wall_s() - int(clock())  # until the database's is known

    def now_s(self) -> int:
        return int(self._clock()) + self._offset_s

    def wall_s(self) -> int:
        return int(self._clock.wall())

    def take_over(self, sql: Sql) -> None:
        """From now on the database's clock. The first process after a start of the machine says
        from where it goes on."""
        found = sql.only("SELECT clock_s, clock_boot, clock_offset_s FROM cluster")
        clock_s, boot, self._offset_s = found
        if boot != self._clock.boot:
            self._offset_s = clock_s - int(self._clock())
            sql.run(
                "UPDATE cluster SET clock_boot = ?, clock_offset_s = ?",
                self._clock.boot, self._offset_s,
            )  # fmt: skip

"""Opens the database, brings its schema forward, and runs plain SQL on it."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from typing import Any
from uuid import uuid4

from peewee import Database, PeeweeException, SqliteDatabase

from common.errors import BadSetting, Conflict, FateUnknown, WrongCluster
from common.ids import KEY_BYTES
from coordinator.metadata.clock import Clock, MachineClock
from coordinator.metadata.models import (
    CARE_TABLES,
    SHARED_TABLES,
    TABLES,
    CollectQueue,
    DeletedPlace,
    proxy,
)
from coordinator.metadata.turns import turn

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


class Sql:
    """Statements on one database, written with ``?``, ``{now}`` (its clock, in seconds) and
    ``{wall}`` (the time of day, for people to read)."""

    def __init__(self, database: Database, now: str, wall: str) -> None:
        self.database = database
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
                yield
                done = True
        except PeeweeException as error:
            if done:
                raise FateUnknown(f"COMMIT failed, its fate is unknown: {error}") from error
            raise

    def run(self, text: str, *values: Any) -> int:
        """Execute; the number of rows that changed."""
        return int(self._execute(text, values).rowcount)

    def insert(self, text: str, *values: Any) -> int:
        """Insert a row; its number."""
        return int(self._execute(text, values).lastrowid)

    def rows(self, text: str, *values: Any) -> list[tuple[Any, ...]]:
        found: list[tuple[Any, ...]] = self._execute(text, values).fetchall()
        return found

    def row(self, text: str, *values: Any) -> tuple[Any, ...] | None:
        found: tuple[Any, ...] | None = self._execute(text, values).fetchone()
        return found

    def _execute(self, text: str, values: tuple[Any, ...]) -> Any:
        database: Any = self.database  # its stubs leave execute_sql untyped
        return database.execute_sql(self._dialect(text), values)

    @property
    def rows_changed(self) -> int:
        """By this thread's connection since it was opened."""
        database: Any = self.database
        return int(database.connection().total_changes)

    def rows_in(self, text: str, keys: Iterable[bytes]) -> list[tuple[Any, ...]]:
        """`text` contains ``{keys}`` where the list of keys goes."""
        wanted = list(keys)
        found: list[tuple[Any, ...]] = []
        for at in range(0, len(wanted), 500):
            part = wanted[at : at + 500]
            marks = ",".join("?" * len(part))
            found += self.rows(text.replace("{keys}", marks), *part)
        return found


def open_database(url: str, clock: Clock | None = None, cluster_id: str = "") -> Sql:
    """Connect to ``sqlite:///path`` and migrate. `cluster_id`, if given, is that of a new
    database. Raises BadSetting for other URLs, WrongCluster for another cluster's database."""
    scheme, separator, path = url.partition(":///")
    if not separator or scheme != "sqlite" or not path:
        raise BadSetting(f"database: need sqlite:///path, not {url!r}")
    database = SqliteDatabase(path, pragmas=SQLITE_PRAGMAS, lock_type="IMMEDIATE")
    times = _Times(clock or MachineClock())
    database.register_function(times.now_s, "sixfold_now", 0)
    database.register_function(times.wall_s, "sixfold_wall", 0)
    database.register_function(int.bit_count, "sixfold_bits", 1)
    proxy.initialize(database)
    sql = Sql(database, "sixfold_now()", "sixfold_wall()")
    with sql.transaction():
        _migrate(sql, cluster_id or uuid4().hex)
        times.take_over(sql)
    found = sql.row("SELECT cluster_id FROM cluster")
    if found and cluster_id and found[0] != cluster_id:
        raise WrongCluster(f"{url} belongs to cluster {found[0]}, not {cluster_id}")
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
        found = sql.row("SELECT clock_s, clock_boot, clock_offset_s FROM cluster")
        assert found is not None
        clock_s, boot, self._offset_s = found
        if boot != self._clock.boot:
            self._offset_s = clock_s - int(self._clock())
            sql.run(
                "UPDATE cluster SET clock_boot = ?, clock_offset_s = ?",
                self._clock.boot, self._offset_s,
            )  # fmt: skip


def _create_everything(sql: Sql, cluster_id: str) -> None:
    sql.database.create_tables(TABLES)
    sql.run(
        "INSERT INTO cluster (id, cluster_id, schema_version, sessions, created_at) "
        "VALUES (1, ?, 0, 0, {now})",
        cluster_id,
    )


def _fewer_rows_for_a_small_content(sql: Sql, cluster_id: str) -> None:
    """Each index over random ids costs a PUT a page of its own once there are many rows. So a
    content of one segment has no row but its pin, and layouts are found by their number only."""
    sql.database.create_tables([CollectQueue])
    for statement in (
        "INSERT INTO collect_queue (content, unpinned_at) SELECT c.id, {now} FROM content c "
        "WHERE NOT EXISTS (SELECT 1 FROM pin p WHERE p.content = c.id)",
        "ALTER TABLE pin ADD COLUMN created_at BIGINT NOT NULL DEFAULT 0",
        "UPDATE pin SET created_at = (SELECT c.created_at FROM content c WHERE c.id = pin.content)",
        "DELETE FROM content WHERE segment_count = 1",
        "CREATE INDEX content_segment_list ON content (segment_list)",
        "DROP INDEX layout_nodes",
        "DROP TABLE layout_node",
    ):
        sql.run(statement)


def _create_shared(sql: Sql, cluster_id: str) -> None:
    sql.database.create_tables(SHARED_TABLES)


def _prepare_for_care(sql: Sql, cluster_id: str) -> None:
    """What repair, scrub, drain and safe deletion need. An outbox row names one segment, so that
    it can be asked what is about to be deleted of it."""
    sql.database.create_tables(CARE_TABLES)
    for node, not_before, keys in sql.rows("SELECT node, not_before, shard_keys FROM outbox"):
        by_write: dict[bytes, bytes] = {}
        for at in range(0, len(keys), KEY_BYTES):
            key = bytes(keys[at : at + KEY_BYTES])
            by_write[key[:-1]] = by_write.get(key[:-1], b"") + key[-1:]
        for write, indexes in by_write.items():
            sql.run(
                "INSERT INTO outbox_delete (node, not_before, segment, generation, indexes, why) "
                "VALUES (?, ?, ?, ?, ?, 1)",
                node, not_before, write[:32], int.from_bytes(write[32:], "big"), indexes,
            )  # fmt: skip
    for statement in (
        "DROP TABLE outbox",
        "ALTER TABLE cluster ADD COLUMN deletes_stopped TEXT NOT NULL DEFAULT ''",
        "ALTER TABLE node ADD COLUMN wish TEXT NOT NULL DEFAULT 'active'",
        "ALTER TABLE segment ADD COLUMN verified_at BIGINT NOT NULL DEFAULT 0",
        "ALTER TABLE repair_queue ADD COLUMN not_before BIGINT NOT NULL DEFAULT 0",
        "ALTER TABLE repair_queue ADD COLUMN attempts INTEGER NOT NULL DEFAULT 0",
    ):
        sql.run(statement)


def _keep_time_and_epoch(sql: Sql, cluster_id: str) -> None:
    """The clock of a database that had none goes on from the last lease, unless the time of day is
    before that: it must not jump ahead."""
    for statement in (
        "ALTER TABLE cluster ADD COLUMN clock_s BIGINT NOT NULL DEFAULT 0",
        "ALTER TABLE cluster ADD COLUMN clock_boot TEXT NOT NULL DEFAULT ''",
        "ALTER TABLE cluster ADD COLUMN clock_offset_s BIGINT NOT NULL DEFAULT 0",
        "ALTER TABLE cluster ADD COLUMN deletes_allowed_at BIGINT NOT NULL DEFAULT 0",
        "ALTER TABLE node ADD COLUMN told_epoch BIGINT NOT NULL DEFAULT 0",
        "UPDATE cluster SET clock_s = coalesce((SELECT min({now}, max(expires_at)) FROM session), "
        "{now})",
    ):
        sql.run(statement)


def _order_the_repair_queue(sql: Sql, cluster_id: str) -> None:
    """Fewest survivors first, then oldest: without reading all of it each time."""
    for statement in (
        "CREATE INDEX repair_queue_order ON repair_queue (survivors, queued_at)",
        "DROP INDEX IF EXISTS repairqueue_survivors",
        "DROP INDEX IF EXISTS repair_queue_survivors",
        "CREATE INDEX repair_queue_due ON repair_queue (not_before)",
    ):
        sql.run(statement)


def _remember_deleted_places(sql: Sql, cluster_id: str) -> None:
    sql.database.create_tables([DeletedPlace])


def _remember_what_is_bad(sql: Sql, cluster_id: str) -> None:
    """Which shards are bad nobody wrote down: repair looks again. Until then nothing is promised of
    what was known to be lost."""
    for statement in (
        "ALTER TABLE repair_queue ADD COLUMN bad INTEGER NOT NULL DEFAULT 0",
        "UPDATE repair_queue SET not_before = 0, bad = coalesce((SELECT (1 << s.n) - 1 "
        "FROM segment s WHERE s.id = repair_queue.segment "
        "AND s.generation = repair_queue.generation AND repair_queue.survivors < s.k), 0)",
        "CREATE INDEX repair_queue_bad ON repair_queue (segment) WHERE bad <> 0",
    ):
        sql.run(statement)


def _find_due_repairs_by_survivors(sql: Sql, cluster_id: str) -> None:
    """Those that are due, without reading those that are not."""
    sql.run("CREATE INDEX repair_queue_turns ON repair_queue (survivors, not_before, queued_at)")
    for needless in ("repair_queue_order", "repair_queue_due"):
        sql.run(f"DROP INDEX {needless}")


def _number_each_delete_once(sql: Sql, cluster_id: str) -> None:
    """SQLite gives the number of a row that is gone to another one, unless told not to. Who was
    paused finishes deletes by numbers that it read long ago."""
    for statement in (
        "CREATE TABLE outbox_numbered (id INTEGER PRIMARY KEY AUTOINCREMENT, "
        "node INTEGER NOT NULL, not_before BIGINT NOT NULL, segment BLOB NOT NULL, "
        "generation BIGINT NOT NULL, indexes BLOB NOT NULL, why SMALLINT NOT NULL)",
        "INSERT INTO outbox_numbered (id, node, not_before, segment, generation, indexes, why) "
        "SELECT id, node, not_before, segment, generation, indexes, why FROM outbox_delete",
        "DROP TABLE outbox_delete",
        "ALTER TABLE outbox_numbered RENAME TO outbox_delete",
        "CREATE INDEX outbox_delete_due ON outbox_delete (node, not_before)",
        "CREATE INDEX outbox_delete_segment ON outbox_delete (segment)",
    ):
        sql.run(statement)


def _count_what_is_forgotten(sql: Sql, cluster_id: str) -> None:
    sql.run("ALTER TABLE cluster ADD COLUMN layouts_forgotten BIGINT NOT NULL DEFAULT 0")


# Step i brings a database of schema version i to version i + 1. Steps are only ever added.
MIGRATIONS: Sequence[Callable[[Sql, str], None]] = (
    _create_everything,
    _fewer_rows_for_a_small_content,
    _create_shared,
    _prepare_for_care,
    _keep_time_and_epoch,
    _order_the_repair_queue,
    _remember_deleted_places,
    _remember_what_is_bad,
    _find_due_repairs_by_survivors,
    _number_each_delete_once,
    _count_what_is_forgotten,
)


def _migrate(sql: Sql, cluster_id: str) -> None:
    version = 0
    if sql.database.table_exists("cluster"):
        found = sql.row("SELECT schema_version FROM cluster")
        version = int(found[0]) if found else 0
    if version > len(MIGRATIONS):
        raise Conflict(
            f"the database has schema version {version}, this sixfold knows "
            f"{len(MIGRATIONS)}: it was written by a newer one"
        )
    for step in MIGRATIONS[version:]:
        step(sql, cluster_id)
    sql.run("UPDATE cluster SET schema_version = ?", len(MIGRATIONS))

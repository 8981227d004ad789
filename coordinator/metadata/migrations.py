"""The schema of the metadata database, and how each version of it becomes the next."""

from collections.abc import Callable, Sequence

from common.errors import Conflict
from common.ids import KEY_BYTES
from coordinator.metadata.models import (
    CARE_TABLES,
    SHARED_TABLES,
    TABLES,
    CollectQueue,
    DeletedPlace,
    RebundleQueue,
    SetAside,
)
from coordinator.metadata.sql import Sql


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


def _doubt_what_a_backup_says(sql: Sql, cluster_id: str) -> None:
    for column in ("doubted_epoch", "doubted_until"):
        sql.run(f"ALTER TABLE cluster ADD COLUMN {column} BIGINT NOT NULL DEFAULT 0")


def _bundle_small_contents(sql: Sql, cluster_id: str) -> None:
    sql.run("ALTER TABLE content ADD COLUMN start_bytes BIGINT")
    sql.database.create_tables([RebundleQueue])


def _remember_rebuilds(sql: Sql, cluster_id: str) -> None:
    sql.run("ALTER TABLE cluster ADD COLUMN rebuilt_epoch BIGINT NOT NULL DEFAULT 0")
    sql.database.create_tables([SetAside])


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
    _doubt_what_a_backup_says,
    _bundle_small_contents,
    _remember_rebuilds,
)


def migrate(sql: Sql, cluster_id: str) -> None:
    """Bring the schema forward; `cluster_id` is for a new database. Raises Conflict for one that a
    newer sixfold has written."""
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

"""What is to be deleted on nodes, for the process that holds the lease of that job.

A delete may reach its node late: whoever sent it may have been stopped in the middle, and the job
have gone to another process. So three things go together. Rows are read only by the holder of the
lease, with the epoch in the same look at the database; the epoch grows whenever a lease changes
hands, so the rows of a later holder come with a higher one. The requests to nodes carry it, and a
node refuses one that is lower than the highest it has seen. And rows are finished only by who has
held the lease ever since they were read. Hence when a row goes, its node has seen the epoch of the
one who finished it, and everything that earlier holders may still send of that row is refused.

The rules for transactions are those of `writes`.
"""

from collections.abc import Sequence

from common.ids import SegmentId, ShardAddress
from coordinator.metadata.jobs import count_in_job_state
from coordinator.metadata.packing import signed
from coordinator.metadata.rows import (
    OUTBOX,
    UNUSED_S,
    DeleteReason,
    DueDeletes,
    OutboxRow,
    Places,
    ShardsOnNode,
    StoredSegment,
)
from coordinator.metadata.sessions import MAY_DELETE
from coordinator.metadata.sql import Sql

_HELD = f"SELECT 1 FROM job_lease WHERE name = '{OUTBOX}' AND session = ?"


def nodes_with_deletes(sql: Sql) -> list[int]:
    """The nodes that have something due to delete, also those that were removed."""
    rows = sql.rows(
        "SELECT n.number FROM node n WHERE EXISTS "
        "(SELECT 1 FROM outbox_delete o WHERE o.node = n.number AND o.not_before <= {now}) "
        f"AND {MAY_DELETE}"
    )
    return [number for (number,) in rows]


def removed_nodes_with_deletes(sql: Sql) -> list[int]:
    rows = sql.rows(
        "SELECT n.number FROM node n WHERE n.wish = 'removed' "
        "AND EXISTS (SELECT 1 FROM outbox_delete o WHERE o.node = n.number)"
    )
    return [number for (number,) in rows]


def writes_in_outbox(sql: Sql) -> set[tuple[SegmentId, int]]:
    """The segments and generations of which something is to be deleted."""
    rows = sql.rows("SELECT DISTINCT segment, generation FROM outbox_delete")
    return {(SegmentId(segment), generation) for segment, generation in rows}


def is_in_outbox(sql: Sql, stored: StoredSegment) -> bool:
    """Whether something of this very write of the segment is to be deleted."""
    key = (stored.id, signed(stored.generation))
    found = sql.row("SELECT 1 FROM outbox_delete WHERE segment = ? AND generation = ?", *key)
    return found is not None


def pending_deletes(sql: Sql, stored: StoredSegment) -> Places:
    """Where the outbox is about to delete shards of this very write of the segment, or has done so
    lately: a second delete may be on its way."""
    key = (stored.id, signed(stored.generation))
    rows = sql.rows(
        "SELECT node, indexes FROM outbox_delete WHERE segment = ? AND generation = ? "
        "UNION ALL "
        "SELECT node, indexes FROM deleted_place WHERE segment = ? AND generation = ? "
        "AND until > {now}",
        *key, *key,
    )  # fmt: skip
    return frozenset((index, node) for node, indexes in rows for index in indexes)


def due_deletes(sql: Sql, node: int, session: int, limit: int) -> DueDeletes:
    """What is due on one node, oldest first; nothing while deletes are stopped, nor for a session
    that does not hold the lease. One statement, so that rows and epoch belong together."""
    rows = sql.rows(
        "SELECT id, segment, generation, indexes, why, (SELECT sessions FROM cluster) "
        f"FROM outbox_delete WHERE EXISTS ({_HELD}) "
        f"AND node = ? AND not_before <= {{now}} AND {MAY_DELETE} "
        "ORDER BY not_before, id LIMIT ?",
        session, node, limit,
    )  # fmt: skip
    due = [
        OutboxRow(
            id_, ShardsOnNode(node, _addresses(segment, generation, indexes)), DeleteReason(why)
        )
        for id_, segment, generation, indexes, why, _ in rows
    ]
    return DueDeletes(rows[0][-1] if rows else 0, due)


def _addresses(segment: bytes, generation: int, indexes: bytes) -> tuple[ShardAddress, ...]:
    return tuple(ShardAddress(SegmentId(segment), generation, index) for index in indexes)


def finish_deletes(sql: Sql, done: DueDeletes, session: int) -> bool:
    """The node has answered. False, and all of them stay, if the lease has changed hands since
    they were read: then it is for the later holder to finish them; or if deletes were stopped
    meanwhile: whoever did that must see what may be gone.

    The same holder may have sent them twice, if the first answer did not come in time: while the
    segment lives, the places are not to be used for a while.
    """
    if not sql.row(f"{_HELD} AND epoch <= ? AND {MAY_DELETE}", session, done.epoch):
        return False
    sql.run("DELETE FROM deleted_place WHERE until <= {now}")
    counts = {"deleted": 0, "quarantined": 0}
    for row in done.rows:
        sql.run(
            "INSERT INTO deleted_place (node, segment, generation, indexes, until) "
            "SELECT o.node, o.segment, o.generation, o.indexes, {now} + ? FROM outbox_delete o "
            "WHERE o.id = ? AND EXISTS (SELECT 1 FROM segment s "
            "WHERE s.id = o.segment AND s.generation = o.generation)",
            UNUSED_S, row.id,
        )  # fmt: skip
        finished = sql.run("DELETE FROM outbox_delete WHERE id = ?", row.id)
        what = "quarantined" if row.why is DeleteReason.ORPHAN else "deleted"
        counts[what] += finished * len(row.shards.addresses)
    count_in_job_state(sql, OUTBOX, **counts)
    return True


def forget_deletes(sql: Sql, nodes: Sequence[int]) -> None:
    """Nodes that are gone for good: what lay on them is gone with them."""
    for node in nodes:
        sql.run("DELETE FROM outbox_delete WHERE node = ?", node)
        sql.run("DELETE FROM orphan WHERE node = ?", node)

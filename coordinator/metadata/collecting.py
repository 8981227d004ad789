"""Deleting contents: made invisible at once, removed when the grace period is over.

References are derived in the transaction that removes: a pin, a content's list of segments, a
content's segment list. The rules for transactions are those of `writes`.
"""

from collections.abc import Iterable

from common.failpoints import Point, failpoint
from common.ids import ContentId, SegmentId
from common.shards import Encoding
from coordinator.metadata.bundles import note_waste
from coordinator.metadata.packing import signed
from coordinator.metadata.rows import DeleteReason, StoredSegment
from coordinator.metadata.sessions import deletes_stopped
from coordinator.metadata.sql import Sql
from coordinator.metadata.writes import (
    DEFAULT_ACCOUNT,
    UNREADABLE,
    add_deletes,
    shards_of,
    touch_behind,
)


def unpin(sql: Sql, content: ContentId) -> bool:
    """Make a content invisible, or give a bundle or list up that is lost and not needed; its space
    is collected later. False if it is nothing of that."""
    gone = (
        sql.run("DELETE FROM pin WHERE content = ? AND account = ?", content, DEFAULT_ACCOUNT) > 0
    )
    if gone or _is_left_over(sql, content):
        gone = True
        sql.run(
            "INSERT INTO collect_queue (content, unpinned_at) VALUES (?, {now}) "
            "ON CONFLICT (content) DO UPDATE SET unpinned_at = excluded.unpinned_at",
            content,
        )
    touch_behind(sql, content)  # the grace period starts now: reads that have begun go on
    failpoint(Point.UNPIN_BEGUN)
    return gone


def _is_left_over(sql: Sql, id_: ContentId) -> bool:
    """Whether a rebuild found too few shards of this bundle or list to know what it was for."""
    lost = (
        f"SELECT 1 FROM segment s WHERE s.id = ? AND EXISTS ({UNREADABLE}) "
        f"AND s.encoding & {int(Encoding.BUNDLE | Encoding.SEGMENT_LIST)} <> 0"
    )
    return sql.exists(lost, id_) and not _is_referenced(sql, SegmentId(id_))


def collect(sql: Sql, content: ContentId, behind: Iterable[StoredSegment], grace_s: int) -> bool:
    """Remove a content that nobody pins, and those of its segments that nothing else needs: from
    now on they are doomed, which is to say that they are in the outbox only. Of one that is pinned
    the segment that it was, if it is cut into several by now.

    False if deletes are stopped, if another process has removed it, if it was pinned again, or if
    a segment of it is younger than the grace: it waits for that.
    """
    if deletes_stopped(sql) or not sql.row(
        "SELECT 1 FROM collect_queue WHERE content = ?", content
    ):
        return False
    pinned = sql.row("SELECT 1 FROM pin WHERE content = ?", content) is not None
    recut = pinned and sql.row("SELECT 1 FROM content WHERE id = ?", content) is not None
    needless = [SegmentId(content)] if recut else []
    segments = {s.id: s for s in behind if not pinned or s.id in needless}
    bundle = None if pinned else _bundle_of(sql, content)
    if bundle is not None:
        segments.pop(bundle, None)
    if pinned and not segments:
        sql.run("DELETE FROM collect_queue WHERE content = ?", content)
        return False
    young = sql.rows_in(
        "SELECT touched_at FROM segment WHERE id IN ({keys}) "
        f"AND touched_at > {{now}} - {int(grace_s)}",
        segments,
    )
    if young:
        (latest,) = max(young)
        sql.run("UPDATE collect_queue SET unpinned_at = ? WHERE content = ?", latest, content)
        return False
    sql.run("DELETE FROM collect_queue WHERE content = ?", content)
    if not pinned:
        sql.run("DELETE FROM content_segment WHERE content = ?", content)
        sql.run("DELETE FROM content WHERE id = ?", content)
    if bundle is not None:
        _one_less_in(sql, bundle)
    for segment in sorted(segments.values(), key=_is_piece):  # lists first: see `marks`
        _remove_unreferenced(sql, segment)
    failpoint(Point.COLLECT_BEGUN)
    return True


def _is_piece(segment: StoredSegment) -> bool:
    return not segment.encoding & Encoding.SEGMENT_LIST


def _bundle_of(sql: Sql, content: ContentId) -> SegmentId | None:
    found = sql.row(
        "SELECT cs.segment FROM content c JOIN content_segment cs ON cs.content = c.id "
        "WHERE c.id = ? AND c.start_bytes IS NOT NULL",
        content,
    )
    return SegmentId(found[0]) if found else None


def _one_less_in(sql: Sql, bundle: SegmentId) -> None:
    """A bundle is kept young by all that is in it. No content waits for that; the bundle does, once
    nothing needs it."""
    if _is_referenced(sql, bundle):
        note_waste(sql, bundle)
        return
    sql.run(
        "INSERT INTO collect_queue (content, unpinned_at) SELECT id, touched_at FROM segment "
        "WHERE id = ? ON CONFLICT DO NOTHING",
        bundle,
    )


_REFERENCED = (
    "SELECT 1 FROM pin p WHERE p.content = ? "
    "AND NOT EXISTS (SELECT 1 FROM content c WHERE c.id = p.content) "
    "UNION ALL SELECT 1 FROM content WHERE segment_list = ? "
    "UNION ALL SELECT 1 FROM content_segment WHERE segment = ? LIMIT 1"
)


def _is_referenced(sql: Sql, segment: SegmentId) -> bool:
    return sql.exists(_REFERENCED, segment, segment, segment)


def _remove_unreferenced(sql: Sql, segment: StoredSegment) -> None:
    if _is_referenced(sql, segment.id):
        note_waste(sql, segment.id)
        return
    removed = sql.run(
        "DELETE FROM segment WHERE id = ? AND generation = ?",
        segment.id, signed(segment.generation),
    )  # fmt: skip
    if removed:
        for queue in ("repair_queue", "rebundle_queue"):
            sql.run(f"DELETE FROM {queue} WHERE segment = ?", segment.id)
        add_deletes(sql, shards_of(segment), DeleteReason.DOOMED)

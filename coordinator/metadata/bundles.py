"""Bundles: segments that hold several small contents (common/bundle.py). The rules for transactions
are those of `writes`.

A content in a bundle has a row and a cut of its own, which name the bundle; so what refers to a
segment, and when it may be collected, is the same for bundles. Only the space of a content that is
deleted comes back late: when nothing needs its bundle any more, or when so little does that the
rest is moved into a new one.
"""

from collections.abc import Sequence

from common.bundle import ENTRY_BYTES, HEAD_BYTES
from common.ids import ContentId, SegmentId
from common.shards import Encoding
from coordinator.metadata.commits import PINS
from coordinator.metadata.cuts import forget_cut, forget_places, insert_parts
from coordinator.metadata.gone import gone_nodes, without_gone
from coordinator.metadata.reads import SEGMENT_COLUMNS, SEGMENT_TABLES, segment_of
from coordinator.metadata.rows import (
    Bundled,
    DeleteReason,
    NewBundle,
    NewContent,
    StoredSegment,
)
from coordinator.metadata.sessions import DOUBTFUL
from coordinator.metadata.sql import Sql
from coordinator.metadata.writes import (
    SEGMENTS_BEHIND,
    UNREADABLE,
    Layouts,
    add_deletes,
    check_sessions,
    layout_now,
    pin,
    put_segment,
    shards_of,
    touch_behind,
)

AGAIN_S = 600  # when a bundle could not be read


def commit_bundle(
    sql: Sql, layouts: Layouts, session: int, new: NewBundle, lost_after_s: float
) -> list[bool]:
    """Make its contents visible: which were not before; of those that were moved, none.

    What another upload has stored meanwhile stands, and what was moved or deleted meanwhile is not
    moved. A bundle of which nothing is needed then is not kept. Raises SessionLost; Undurable if
    too few of its nodes are still there.
    """
    check_sessions(sql, session, [new.segment])
    upload = _as_upload(new)
    upload = without_gone(sql, upload, gone_nodes(sql, lost_after_s))
    add_deletes(sql, upload.unconfirmed, DeleteReason.LEFTOVER)
    (segment,) = upload.written
    known = _known(sql, [part.id for part in new.contents])
    fresh = [p for p in new.contents if p.id not in known and p.moved_from is None]
    placed = [*fresh, *(p for p in new.contents if p.id in known and _needs_place(sql, p))]
    if placed or layout_now(sql, segment.id, segment.generation):
        put_segment(sql, layouts, segment, None)
        insert_parts(sql, segment.id, placed)
    else:
        add_deletes(sql, shards_of(segment), DeleteReason.LEFTOVER)
    sql.insert_rows(*PINS, [(part.id,) for part in fresh])
    visible = [_is_visible(sql, part, part.id in known) for part in new.contents]
    for bundle in {part.moved_from for part in new.contents if part.moved_from is not None}:
        sql.run("DELETE FROM rebundle_queue WHERE segment = ?", bundle)
        note_waste(sql, bundle)  # something may have come back in it meanwhile
    if placed and len(placed) < len(new.contents):
        note_waste(sql, segment.id)
    return visible


def _as_upload(new: NewBundle) -> NewContent:
    segment = new.segment
    return NewContent(
        ContentId(segment.id), segment.size_bytes, [segment], None, [segment], new.unconfirmed
    )


def _known(sql: Sql, ids: Sequence[ContentId]) -> set[bytes]:
    """Those that are contents already, visible or with a cut. What is only a segment, of another
    content perhaps, is none."""
    rows = sql.rows_in("SELECT content FROM pin WHERE content IN ({keys})", ids)
    rows += sql.rows_in("SELECT id FROM content WHERE id IN ({keys})", ids)
    return {id_ for (id_,) in rows}


def _needs_place(sql: Sql, part: Bundled) -> bool:
    """Whether this content, which is there already, is to be in the new bundle from now on: if it
    is still in the one that it is moved from; if it is uploaded, and what is there is lost, or in
    doubt, or cut into several segments, at which nobody has looked (reads.known_copies), or was
    deleted meanwhile: so what was not visible before is in the new bundle."""
    if part.moved_from is not None:
        is_there = sql.exists(
            "SELECT 1 FROM content_segment WHERE content = ? AND segment = ?",
            part.id, part.moved_from,
        )  # fmt: skip
        if is_there:
            forget_cut(sql, part.id)
        return is_there
    unsure = sql.exists(
        "SELECT 1 WHERE NOT EXISTS (SELECT 1 FROM pin WHERE content = ?) "
        "UNION ALL SELECT 1 FROM content WHERE id = ? AND segment_count > 1 "
        f"UNION ALL SELECT 1 FROM segment s WHERE s.id IN ({SEGMENTS_BEHIND}) "
        f"AND (EXISTS ({UNREADABLE}) OR ({DOUBTFUL}))",
        part.id, part.id, part.id, part.id, part.id,
    )  # fmt: skip
    if _is_complete(sql, part.id) and not unsure:
        touch_behind(sql, part.id)
        return False
    forget_places(sql, part.id)
    return True


def _is_complete(sql: Sql, content: ContentId) -> bool:
    """Whether the database has all segments of it."""
    cut = sql.rows("SELECT segment FROM content_segment WHERE content = ?", content)
    ids = {bytes(id_) for (id_,) in cut} or {bytes(content)}
    return len(sql.rows_in("SELECT 1 FROM segment WHERE id IN ({keys})", ids)) == len(ids)


def _is_visible(sql: Sql, part: Bundled, was_known: bool) -> bool:
    """Whether it is new that this content is visible."""
    if part.moved_from is not None:
        return False
    return pin(sql, part.id) if was_known else True


def note_waste(sql: Sql, bundle: SegmentId) -> None:
    """If less than half of this segment is needed, but not nothing, and it is a bundle, the rest is
    to be moved."""
    sql.run(
        "INSERT INTO rebundle_queue (segment, not_before) SELECT s.id, {now} FROM segment s "
        f"WHERE s.id = ? AND s.encoding = ? AND s.size_bytes - {HEAD_BYTES} > 2 * ("
        f"SELECT sum(c.size_bytes + {ENTRY_BYTES}) "
        "FROM content_segment cs JOIN content c ON c.id = cs.content "
        "WHERE cs.segment = s.id) ON CONFLICT DO NOTHING",
        bundle, int(Encoding.BUNDLE),
    )  # fmt: skip


def wasteful(sql: Sql, limit: int) -> list[tuple[StoredSegment, list[Bundled]]]:
    """Bundles of which most is not needed, those that wait longest first, and what is."""
    rows = sql.rows(
        f"SELECT {SEGMENT_COLUMNS} FROM {SEGMENT_TABLES}JOIN rebundle_queue q ON q.segment = s.id "
        "WHERE q.not_before <= {now} "
        "AND EXISTS (SELECT 1 FROM content_segment cs WHERE cs.segment = s.id) "
        "ORDER BY q.not_before LIMIT ?",
        limit,
    )
    return [(bundle, contents_of(sql, bundle.id)) for bundle in map(segment_of, rows)]


def contents_of(sql: Sql, bundle: SegmentId) -> list[Bundled]:
    """Those that are in this bundle, as they would be moved."""
    rows = sql.rows(
        "SELECT c.id, c.start_bytes, c.size_bytes FROM content_segment cs "
        "JOIN content c ON c.id = cs.content WHERE cs.segment = ? ORDER BY c.start_bytes",
        bundle,
    )
    return [Bundled(ContentId(id_), start, size, bundle) for id_, start, size in rows]


def not_now(sql: Sql, bundle: SegmentId) -> None:
    """It cannot be read: others first."""
    sql.run("UPDATE rebundle_queue SET not_before = {now} + ? WHERE segment = ?", AGAIN_S, bundle)

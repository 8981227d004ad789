"""How contents are cut into segments. A content of one segment is its segment; one of several has
a row of its own, and rows for these. So has one in a bundle, for that, and one of which the segment
is a piece of another (`marks`).

The latest upload's cut stands: coordinators may cut otherwise than they did, and of its segments,
which it has just stored or found, more is known than of those of the cut before. Those are offered
to the collector, which looks whether anything else needs them.
"""

from collections.abc import Sequence

from common.ids import ContentId, SegmentId
from coordinator.metadata.rows import Bundled, NewContent
from coordinator.metadata.sql import Sql

AS_ONE_SEGMENT = "SELECT id FROM segment WHERE id = ?"


def set_cut(sql: Sql, new: NewContent) -> None:
    """The content, which has several segments, is cut as `new` says."""
    list_id = new.segment_list and new.segment_list.id
    found = sql.row("SELECT segment_list FROM content WHERE id = ?", new.id)
    if found and found[0] == list_id:
        return  # the list's id stands for all that it says
    if found:
        forget_cut(sql, new.id)
    sql.run(
        "INSERT INTO content (id, size_bytes, segment_count, segment_list, created_at) "
        "VALUES (?, ?, ?, ?, {wall})",
        new.id, new.size_bytes, len(new.segments), list_id,
    )  # fmt: skip
    for position, segment in enumerate(new.segments):
        sql.run("INSERT INTO content_segment VALUES (?, ?, ?)", new.id, position, segment.id)
    offer_to_collector(sql, AS_ONE_SEGMENT, new.id)


def set_part(sql: Sql, new: NewContent) -> None:
    """The content is in a bundle, its one segment. If it has a cut by now, that one stands."""
    if not sql.row("SELECT 1 FROM content WHERE id = ?", new.id):
        bundle, part = new.segments[0].id, (new.id, new.start_bytes or 0, new.size_bytes)
        insert_parts(sql, bundle, [Bundled(*part)])
        offer_to_collector(sql, AS_ONE_SEGMENT, new.id)


def insert_parts(sql: Sql, bundle: SegmentId, parts: Sequence[Bundled]) -> None:
    """These contents, which have no cut, are in that bundle."""
    sql.insert_rows(
        "INSERT INTO content (id, size_bytes, segment_count, start_bytes, created_at) "
        "VALUES {rows}",
        "(?, ?, 1, ?, {wall})",
        [(part.id, part.size_bytes, part.start_bytes) for part in parts],
    )
    sql.insert_rows(
        "INSERT INTO content_segment VALUES {rows}",
        "(?, 0, ?)",
        [(part.id, bundle) for part in parts],
    )


def forget_cut(sql: Sql, content: ContentId) -> None:
    """The content is not cut into these several segments any more."""
    offer_to_collector(sql, "SELECT segment FROM content_segment WHERE content = ?", content)
    offer_to_collector(sql, "SELECT segment_list FROM content WHERE id = ?", content)
    sql.run("DELETE FROM content_segment WHERE content = ?", content)
    sql.run("DELETE FROM content WHERE id = ?", content)


def forget_places(sql: Sql, content: ContentId) -> None:
    """Wherever the content is, as one segment or as several or in a bundle: it is to be put
    elsewhere."""
    forget_cut(sql, content)
    offer_to_collector(sql, AS_ONE_SEGMENT, content)


def offer_to_collector(sql: Sql, segments: str, content: ContentId | SegmentId) -> None:
    """What this query finds, given that id. Its grace period starts now: reads that have begun go
    on."""
    sql.run(f"UPDATE segment SET touched_at = {{now}} WHERE id IN ({segments})", content)
    sql.run(
        "INSERT INTO collect_queue (content, unpinned_at) "
        f"SELECT DISTINCT s.id, {{now}} FROM segment s WHERE s.id IN ({segments}) "
        "ON CONFLICT DO NOTHING",
        content,
    )

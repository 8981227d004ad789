"""The queries. Each takes a batch of questions and answers them in a few statements."""

from collections.abc import Iterable, Sequence
from typing import Any

from common.ids import ContentId, SegmentId
from common.shards import Encoding
from coordinator.metadata.damage import ImpossibleRow
from coordinator.metadata.notices import LEFT_JOIN_QUEUE
from coordinator.metadata.packing import unpack_layout
from coordinator.metadata.rows import (
    CopyOf,
    KnownCopy,
    KnownSegment,
    Manifest,
    NodeRow,
    StoredSegment,
    Wish,
)
from coordinator.metadata.sessions import DOUBTFUL, MAY_DELETE
from coordinator.metadata.sql import Sql
from coordinator.metadata.writes import SEGMENTS_BEHIND

SEGMENT_COLUMNS = (
    "s.id, s.size_bytes, s.encoding, s.k, s.n, s.generation, l.nodes, s.checksums, r.bad"
)
# Where these columns are, behind a FROM or JOIN.
SEGMENT_TABLES = f"segment s JOIN layout l ON l.id = s.layout {LEFT_JOIN_QUEUE}"


def segment_of(row: Sequence[Any]) -> StoredSegment:
    """Raises ImpossibleRow for one without a layout, or not there at all."""
    if None in row[:8]:
        raise ImpossibleRow("a content, or a layout, is without its segment")
    id_, size_bytes, encoding, k, n, generation, nodes, checksums, bad = row
    return StoredSegment(
        SegmentId(id_), size_bytes, Encoding(encoding), k, n, generation,
        unpack_layout(nodes), bytes(checksums), bad or 0,
    )  # fmt: skip


def known_segments(
    sql: Sql, ids: Iterable[SegmentId], fresh_s: int
) -> dict[SegmentId, KnownSegment]:
    """Those that a PUT may refer to: not what is known to be lost."""
    rows = sql.rows_in(
        f"SELECT s.touched_at > {{now}} - {int(fresh_s)}, {DOUBTFUL}, {SEGMENT_COLUMNS} "
        f"FROM {SEGMENT_TABLES}"
        "WHERE s.id IN ({keys}) AND coalesce(r.survivors >= s.k, 1)",
        set(ids),
    )
    known = (KnownSegment(segment_of(row), bool(fresh), bool(old)) for fresh, old, *row in rows)
    return {segment.stored.id: segment for segment in known}


_LOST_SEGMENTS = (
    "SELECT s.id FROM repair_queue r JOIN segment s ON s.id = r.segment "
    "AND s.generation = r.generation WHERE r.survivors < s.k"
)


def known_copies(sql: Sql, ids: Iterable[CopyOf], fresh_s: int) -> dict[CopyOf, KnownCopy]:
    """Where the bytes of small contents are already, unless that is known to be lost."""
    wanted = {bytes(ask.id) for ask in ids}
    alone = known_segments(sql, map(SegmentId, wanted), fresh_s)
    copies = {CopyOf(ContentId(id_)): KnownCopy(known, None) for id_, known in alone.items()}
    for (id_,) in sql.rows_in(f"{_LOST_SEGMENTS} AND s.id IN ({{keys}})", wanted):
        copies[CopyOf(ContentId(id_))] = KnownCopy(None, None)
    rows = sql.rows_in(
        f"SELECT c.id, c.start_bytes, s.touched_at > {{now}} - {int(fresh_s)}, {DOUBTFUL}, "
        f"{SEGMENT_COLUMNS} "
        "FROM content c JOIN content_segment cs ON cs.content = c.id "
        f"JOIN segment s ON s.id = cs.segment JOIN layout l ON l.id = s.layout {LEFT_JOIN_QUEUE}"
        "WHERE c.id IN ({keys}) AND c.start_bytes IS NOT NULL AND coalesce(r.survivors >= s.k, 1)",
        wanted - {bytes(id_) for id_ in alone},
    )
    for id_, start_bytes, fresh, doubtful, *segment in rows:
        known = KnownSegment(segment_of(segment), bool(fresh), bool(doubtful))
        copies[CopyOf(ContentId(id_))] = KnownCopy(known, start_bytes)
    return copies


def manifests(sql: Sql, ids: Iterable[ContentId]) -> dict[ContentId, Manifest]:
    """The visible contents among `ids`."""
    rows = sql.rows_in(
        f"SELECT p.content, p.created_at, c.size_bytes, c.start_bytes, {SEGMENT_COLUMNS} "
        "FROM pin p LEFT JOIN content c ON c.id = p.content LEFT JOIN content_segment cs "
        "ON cs.content = c.id AND cs.position = 0 AND c.start_bytes IS NOT NULL "
        "LEFT JOIN segment s ON s.id = coalesce(cs.segment, p.content) "
        f"LEFT JOIN layout l ON l.id = s.layout {LEFT_JOIN_QUEUE}WHERE p.content IN ({{keys}})",
        set(ids),
    )
    return {ContentId(row[0]): _manifest(sql, *row) for row in rows}


def _manifest(
    sql: Sql,
    id_: bytes,
    created_at_s: int,
    size_bytes: int | None,
    start_bytes: int | None,
    *only: Any,
) -> Manifest:
    """`only` is the segment that the content is, or is in; not of one of several."""
    content = ContentId(id_)
    if size_bytes is None:
        segment = segment_of(only)
        return Manifest(content, segment.size_bytes, created_at_s, (segment,))
    if start_bytes is None:
        return Manifest(content, size_bytes, created_at_s, _segments_of(sql, content))
    segments = (segment_of(only),) if only[0] is not None else ()
    return Manifest(content, size_bytes, created_at_s, segments, start_bytes)


def _segments_of(sql: Sql, content: ContentId) -> tuple[StoredSegment, ...]:
    rows = sql.rows(
        f"SELECT {SEGMENT_COLUMNS} FROM content_segment cs JOIN segment s ON s.id = cs.segment "
        f"JOIN layout l ON l.id = s.layout {LEFT_JOIN_QUEUE}WHERE cs.content = ? "
        "ORDER BY cs.position",
        content,
    )
    return tuple(map(segment_of, rows))


def segments_behind(sql: Sql, content: ContentId) -> list[StoredSegment]:
    """All that are there for this content: its one or its several, and the list of those."""
    rows = sql.rows(
        f"SELECT {SEGMENT_COLUMNS} FROM {SEGMENT_TABLES}WHERE s.id IN ({SEGMENTS_BEHIND})",
        content, content, content,
    )  # fmt: skip
    return list(map(segment_of, rows))


def collectable(sql: Sql, grace_s: int, limit: int) -> list[ContentId]:
    """Contents whose grace period may be over, longest unpinned first; none while deletes are
    stopped."""
    rows = sql.rows(
        f"SELECT content FROM collect_queue WHERE unpinned_at <= {{now}} - ? AND {MAY_DELETE} "
        "ORDER BY unpinned_at LIMIT ?",
        grace_s, limit,
    )  # fmt: skip
    return [ContentId(id_) for (id_,) in rows]


def nodes(sql: Sql) -> list[NodeRow]:
    rows = sql.rows("SELECT number, node_id, name, zone, wish FROM node")
    return [NodeRow.of(row) for row in rows]


def wishes(sql: Sql) -> dict[int, Wish]:
    rows = sql.rows("SELECT number, wish FROM node WHERE wish <> ?", Wish.ACTIVE.value)
    return {number: Wish(wish) for number, wish in rows}


def cluster_id(sql: Sql) -> str:
    row = sql.only("SELECT cluster_id FROM cluster")
    return str(row[0])


def counts(sql: Sql) -> dict[str, int]:
    """How many rows the larger tables have. To count is to read: not for every request."""
    tables = (
        "segment", "layout", "content", "pin", "outbox_delete", "repair_queue", "collect_queue",
    )  # fmt: skip
    return {name: int((sql.row(f"SELECT count(*) FROM {name}") or (0,))[0]) for name in tables}

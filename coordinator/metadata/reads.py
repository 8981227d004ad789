"""The queries. Each takes a batch of questions and answers them in a few statements."""

from collections.abc import Iterable, Sequence
from typing import Any

from common.ids import KEY_BYTES, ContentId, SegmentId, ShardAddress
from common.shards import Encoding
from coordinator.metadata.database import Sql
from coordinator.metadata.rows import (
    KnownSegment,
    Manifest,
    NodeRow,
    OutboxRow,
    ShardsOnNode,
    StoredSegment,
)
from coordinator.metadata.writes import UNREADABLE, unpack_layout

_SEGMENT_COLUMNS = "s.id, s.size_bytes, s.encoding, s.k, s.n, s.generation, l.nodes, s.checksums"


def _segment(row: Sequence[Any]) -> StoredSegment:
    id_, size_bytes, encoding, k, n, generation, nodes, checksums = row
    return StoredSegment(
        SegmentId(id_), size_bytes, Encoding(encoding), k, n, generation,
        unpack_layout(nodes), bytes(checksums),
    )  # fmt: skip


def known_segments(
    sql: Sql, ids: Iterable[SegmentId], fresh_s: int
) -> dict[SegmentId, KnownSegment]:
    """Those that a PUT may refer to: not what a read has found to be lost."""
    rows = sql.rows_in(
        f"SELECT s.touched_at > {{now}} - {int(fresh_s)}, {_SEGMENT_COLUMNS} FROM segment s "
        f"JOIN layout l ON l.id = s.layout WHERE s.id IN ({{keys}}) AND NOT EXISTS ({UNREADABLE})",
        set(ids),
    )
    known = (KnownSegment(_segment(row[1:]), bool(row[0])) for row in rows)
    return {segment.stored.id: segment for segment in known}


def manifests(sql: Sql, ids: Iterable[ContentId], pinned: bool = True) -> dict[ContentId, Manifest]:
    """The visible contents among `ids`; with `pinned` false, also those nobody pins."""
    visible = "AND EXISTS (SELECT 1 FROM pin p WHERE p.content = c.id)" if pinned else ""
    rows = sql.rows_in(
        f"SELECT c.id, c.size_bytes, c.created_at, c.segment_count, {_SEGMENT_COLUMNS} "
        "FROM content c LEFT JOIN segment s ON s.id = c.id AND c.segment_count = 1 "
        f"LEFT JOIN layout l ON l.id = s.layout WHERE c.id IN ({{keys}}) {visible}",
        set(ids),
    )
    found = {}
    for id_, size_bytes, created_at_s, count, *single in rows:
        content = ContentId(id_)
        segments = (_segment(single),) if count == 1 else _segments_of(sql, content)
        found[content] = Manifest(content, size_bytes, created_at_s, segments)
    return found


def _segments_of(sql: Sql, content: ContentId) -> tuple[StoredSegment, ...]:
    rows = sql.rows(
        f"SELECT {_SEGMENT_COLUMNS} FROM content_segment cs JOIN segment s ON s.id = cs.segment "
        "JOIN layout l ON l.id = s.layout WHERE cs.content = ? ORDER BY cs.position",
        content,
    )
    return tuple(map(_segment, rows))


def segment_list_of(sql: Sql, content: ContentId) -> list[StoredSegment]:
    """The segment that holds the segment list of a content; empty if it has none."""
    rows = sql.rows(
        f"SELECT {_SEGMENT_COLUMNS} FROM content c JOIN segment s ON s.id = c.segment_list "
        "JOIN layout l ON l.id = s.layout WHERE c.id = ?",
        content,
    )
    return list(map(_segment, rows))


def unpinned_contents(sql: Sql, limit: int) -> list[ContentId]:
    rows = sql.rows(
        "SELECT c.id FROM content c WHERE NOT EXISTS "
        "(SELECT 1 FROM pin p WHERE p.content = c.id) LIMIT ?",
        limit,
    )
    return [ContentId(id_) for (id_,) in rows]


def due_deletes(sql: Sql, limit: int) -> list[OutboxRow]:
    rows = sql.rows(
        "SELECT id, node, shard_keys FROM outbox WHERE not_before <= {now} ORDER BY id LIMIT ?",
        limit,
    )
    return [OutboxRow(id_, ShardsOnNode(node, _addresses(keys))) for id_, node, keys in rows]


def _addresses(keys: bytes) -> tuple[ShardAddress, ...]:
    starts = range(0, len(keys), KEY_BYTES)
    return tuple(ShardAddress.from_key(keys[at : at + KEY_BYTES]) for at in starts)


def nodes(sql: Sql) -> list[NodeRow]:
    return [NodeRow(*row) for row in sql.rows("SELECT number, node_id, name, zone FROM node")]


def cluster_id(sql: Sql) -> str:
    row = sql.row("SELECT cluster_id FROM cluster")
    assert row is not None
    return str(row[0])


def counts(sql: Sql) -> dict[str, int]:
    """How many rows the larger tables have."""
    tables = ("content", "segment", "layout", "outbox", "repair_queue")
    return {name: int((sql.row(f"SELECT count(*) FROM {name}") or (0,))[0]) for name in tables}

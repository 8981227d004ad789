"""What the checks of whole stripes need of the database: segments in order, and when they were
found good."""

from collections.abc import Sequence

from common.ids import SegmentId
from common.shards import Encoding
from coordinator.metadata.database import Sql
from coordinator.metadata.packing import signed, unpack_layout
from coordinator.metadata.rows import StoredSegment


def segments_after(sql: Sql, after: bytes, limit: int) -> list[StoredSegment]:
    """In order of their ids, from behind `after` on."""
    rows = sql.rows(
        "SELECT s.id, s.size_bytes, s.encoding, s.k, s.n, s.generation, l.nodes, s.checksums "
        "FROM segment s JOIN layout l ON l.id = s.layout WHERE s.id > ? ORDER BY s.id LIMIT ?",
        after, limit,
    )  # fmt: skip
    return [
        StoredSegment(
            SegmentId(id_), size_bytes, Encoding(encoding), k, n, generation,
            unpack_layout(nodes), bytes(checksums),
        )
        for id_, size_bytes, encoding, k, n, generation, nodes, checksums in rows
    ]  # fmt: skip


def set_verified(sql: Sql, segments: Sequence[StoredSegment]) -> None:
    """All their shards were found good just now."""
    for segment in segments:
        sql.run(
            "UPDATE segment SET verified_at = {now} WHERE id = ? AND generation = ?",
            segment.id, signed(segment.generation),
        )  # fmt: skip


def now_s(sql: Sql) -> int:
    """By the database's clock."""
    row = sql.row("SELECT {now}")
    assert row is not None
    return int(row[0])

"""What the checks of whole stripes need of the database: segments in order, where they are now, and
when they were found good."""

from collections.abc import Sequence

from coordinator.metadata.packing import signed
from coordinator.metadata.reads import SEGMENT_COLUMNS, SEGMENT_TABLES, segment_of
from coordinator.metadata.rows import StoredSegment
from coordinator.metadata.sql import Sql


def segments_after(sql: Sql, after: bytes, limit: int) -> list[StoredSegment]:
    """In order of their ids, from behind `after` on."""
    rows = sql.rows(
        f"SELECT {SEGMENT_COLUMNS} FROM {SEGMENT_TABLES}WHERE s.id > ? ORDER BY s.id LIMIT ?",
        after, limit,
    )  # fmt: skip
    return list(map(segment_of, rows))


def moved(sql: Sql, seen: StoredSegment) -> StoredSegment | None:
    """The segment as it is now, if its shards lie elsewhere than `seen` says, or it was written
    anew."""
    row = sql.row(f"SELECT {SEGMENT_COLUMNS} FROM {SEGMENT_TABLES}WHERE s.id = ?", seen.id)
    now = segment_of(row) if row else seen
    return now if (now.generation, now.layout) != (seen.generation, seen.layout) else None


def set_verified(sql: Sql, segments: Sequence[StoredSegment]) -> None:
    """All their shards were found good just now."""
    for segment in segments:
        sql.run(
            "UPDATE segment SET verified_at = {now} WHERE id = ? AND generation = ?",
            segment.id, signed(segment.generation),
        )  # fmt: skip

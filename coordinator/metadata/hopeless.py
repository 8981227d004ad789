"""The segments of which repair knows fewer than k shards, and the contents that need them."""

from dataclasses import dataclass

from common.ids import DIGEST_BYTES, ContentId, SegmentId
from common.shards import Encoding
from coordinator.metadata.explaining import ContentState
from coordinator.metadata.sql import Sql

SCANNED = 10_000  # rows of the queue at once: it may be long, and nearly all of it mendable
_LAST = b"\xff" * (DIGEST_BYTES + 1)  # behind all ids


@dataclass(frozen=True, slots=True)
class Hopeless:
    """A content, and a segment that it needs and that is not there; without the content if nothing
    needs the segment any more. `reason` is what repair said of it last."""

    segment: SegmentId
    survivors: int
    k: int
    n: int
    reason: str
    content: ContentId | None
    state: ContentState | None


@dataclass(frozen=True, slots=True)
class HopelessPage:
    """In order of the segments, and of the contents of each. `after` leads to the next page, which
    may be there though this one is empty; None behind the last."""

    rows: list[Hopeless]
    after: bytes | None


def hopeless(sql: Sql, after: bytes, limit: int) -> HopelessPage:
    """`limit` rows at most. `after` is empty, or what the page before said: a segment to begin
    with, and behind which of its contents."""
    first, behind = after[:DIGEST_BYTES], after[DIGEST_BYTES:]
    found = sql.row(
        "SELECT segment FROM repair_queue WHERE segment >= ? ORDER BY segment LIMIT 1 OFFSET ?",
        first, SCANNED,
    )  # fmt: skip
    end = bytes(found[0]) if found else _LAST
    queued = sql.rows(
        "SELECT r.segment, r.survivors, s.k, s.n, r.reason FROM repair_queue r "
        "JOIN segment s ON s.id = r.segment AND s.generation = r.generation "
        "WHERE r.segment >= ? AND r.segment < ? AND r.survivors < s.k ORDER BY r.segment LIMIT ?",
        first, end, limit + 1,
    )  # fmt: skip
    rows = list[Hopeless]()
    for id_, survivors, k, n, reason in queued:
        past = behind if id_ == first else b""
        needed_by = _needed_by(sql, SegmentId(id_), past, limit - len(rows))
        of_segment = SegmentId(id_), survivors, k, n, reason
        rows += [Hopeless(*of_segment, content, state) for content, state in needed_by]
        if len(rows) == limit:
            return HopelessPage(rows, id_ + (rows[-1].content or _LAST[:DIGEST_BYTES]))
    return HopelessPage(rows, None if end == _LAST else end)


# As its one segment, as its list of segments, or as one of these, which may be a bundle.
_NEEDING = (
    "SELECT p.content FROM pin p WHERE p.content = ? "
    "AND NOT EXISTS (SELECT 1 FROM content c WHERE c.id = p.content) "
    "UNION SELECT q.content FROM collect_queue q JOIN segment s ON s.id = q.content "
    f"WHERE q.content = ? AND s.encoding & {int(Encoding.BUNDLE | Encoding.SEGMENT_LIST)} = 0 "
    "AND NOT EXISTS (SELECT 1 FROM content c WHERE c.id = q.content) "
    "UNION SELECT id FROM content WHERE segment_list = ? "
    "UNION SELECT content FROM content_segment WHERE segment = ?"
)


def _needed_by(
    sql: Sql, segment: SegmentId, behind: bytes, limit: int
) -> list[tuple[ContentId | None, ContentState | None]]:
    """In order, from behind that content on. Bundles and lists wait for the collector under their
    own ids, and are no contents for that."""
    rows = sql.rows(
        "SELECT content, EXISTS (SELECT 1 FROM pin p WHERE p.content = needing.content) "
        f"FROM ({_NEEDING}) AS needing WHERE content > ? ORDER BY content LIMIT ?",
        segment, segment, segment, segment, behind, limit,
    )  # fmt: skip
    states = {True: ContentState.LIVE, False: ContentState.DELETED}
    found = [(ContentId(id_), states[bool(pinned)]) for id_, pinned in rows]
    return [*found] if found or behind else [(None, None)]

"""What the database knows of one content and of the care that its segments get."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple

from common.bundle import Part
from common.ids import ContentId, SegmentId
from coordinator.metadata import reads
from coordinator.metadata.rows import DeleteReason, StoredSegment
from coordinator.metadata.sql import Sql


class ContentState(StrEnum):
    """Deleted: nobody sees it, but its segments are there until the grace period is over. Doomed:
    its shards are being deleted on the nodes."""

    LIVE = "live"
    DELETED = "deleted"
    DOOMED = "doomed"


@dataclass(frozen=True, slots=True)
class Queued:
    """A row of the repair queue: times are ages, and until the next try, 0 if it is due."""

    survivors: int
    reason: str
    queued_age_s: int
    wait_s: int
    attempts: int


@dataclass(frozen=True, slots=True)
class CaredSegment:
    """A segment and its care. `position` is None for the list of the others; `verified_at_s` is 0
    if its shards were not looked at since they were written. `part` tells where the content is in
    a bundle, from where to where; None if it has all of the segment."""

    stored: StoredSegment
    position: int | None
    verified_at_s: int
    queued: Queued | None
    part: Part | None


@dataclass(frozen=True, slots=True)
class PendingDelete:
    """Shards that a node was not yet seen to delete; `due_in_s` may be below 0."""

    node: int
    generation: int
    indexes: tuple[int, ...]
    due_in_s: int


@dataclass(frozen=True, slots=True)
class Explained:
    """A content, some of its segments in order, and what is being deleted of it. `segment_count`
    includes the list of segments, if there is one, which comes last."""

    id: ContentId
    state: ContentState
    segment_count: int
    segments: tuple[CaredSegment, ...]
    pending: tuple[PendingDelete, ...]


class _Numbered(NamedTuple):
    position: int | None
    segment: StoredSegment
    part: Part | None = None


def explained(sql: Sql, content: ContentId, first: int, limit: int) -> Explained | None:
    """The content with `limit` of its segments at most, from the `first`, counted from 0, on. None
    if there is no such content and nothing is being deleted of it.

    Of doomed contents of several segments nothing is left that tells which these were.
    """
    pending = _pending(sql, content)
    state = _state(sql, content)
    if state is None:
        doomed = Explained(content, ContentState.DOOMED, 0, (), pending)
        return doomed if pending else None
    segments = _in_order(sql, content)
    shown = segments[first : first + limit]
    return Explained(content, state, len(segments), _with_care(sql, shown), pending)


def _part_of(sql: Sql, content: ContentId) -> Part | None:
    found = sql.row(
        "SELECT start_bytes, start_bytes + size_bytes FROM content "
        "WHERE id = ? AND start_bytes IS NOT NULL",
        content,
    )
    return Part(*found) if found else None


def _state(sql: Sql, content: ContentId) -> ContentState | None:
    if sql.row("SELECT 1 FROM pin WHERE content = ?", content):
        return ContentState.LIVE
    if sql.row("SELECT 1 FROM collect_queue WHERE content = ?", content):
        return ContentState.DELETED
    return None


def _in_order(sql: Sql, content: ContentId) -> list[_Numbered]:
    behind = {segment.id: segment for segment in reads.segments_behind(sql, content)}
    rows = sql.rows(
        "SELECT segment FROM content_segment WHERE content = ? ORDER BY position", content
    )
    ids = [SegmentId(id_) for (id_,) in rows]
    if not ids:
        return [_Numbered(0, segment) for segment in behind.values()]
    others = behind.keys() - set(ids) - {content}  # as one segment it may be there still
    part = _part_of(sql, content)
    pieces = [_Numbered(at, behind[id_], part) for at, id_ in enumerate(ids) if id_ in behind]
    return [*pieces, *(_Numbered(None, behind[id_]) for id_ in others)]


def _with_care(sql: Sql, segments: Sequence[_Numbered]) -> tuple[CaredSegment, ...]:
    rows = sql.rows_in(
        "SELECT s.id, s.verified_at, r.survivors, r.reason, {now} - r.queued_at, "
        "CASE WHEN r.not_before > {now} THEN r.not_before - {now} ELSE 0 END, r.attempts "
        "FROM segment s LEFT JOIN repair_queue r ON r.segment = s.id WHERE s.id IN ({keys})",
        {each.segment.id for each in segments},
    )
    found = {id_: (verified_at_s, queued) for id_, verified_at_s, *queued in rows}
    cared = []
    for position, segment, part in segments:
        if segment.id not in found:
            continue  # it was collected a moment ago
        verified_at_s, queued = found[segment.id]
        row = Queued(*queued) if queued[0] is not None else None
        cared.append(CaredSegment(segment, position, verified_at_s, row, part))
    return tuple(cared)


def _pending(sql: Sql, content: ContentId) -> tuple[PendingDelete, ...]:
    """What is left of the segment of a doomed content of one segment."""
    rows = sql.rows(
        "SELECT node, generation, indexes, not_before - {now} FROM outbox_delete "
        "WHERE segment = ? AND why = ? ORDER BY node",
        content, int(DeleteReason.DOOMED),
    )  # fmt: skip
    return tuple(PendingDelete(node, gen, tuple(indexes), due) for node, gen, indexes, due in rows)

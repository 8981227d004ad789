"""The transactions of a rebuild: what was found on nodes goes back into the tables."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from common.errors import Conflict
from common.ids import SegmentId
from common.segment_list import SegmentList
from common.shards import Encoding
from coordinator.metadata.outbox import is_in_outbox
from coordinator.metadata.rows import GENERATION_COUNTER_BITS, StoredSegment
from coordinator.metadata.sessions import deletes_stopped
from coordinator.metadata.sql import Sql
from coordinator.metadata.writes import (
    DEFAULT_ACCOUNT,
    Layouts,
    insert_segment,
    pin,
    replace_segment,
)


@dataclass(frozen=True, slots=True)
class Found:
    """A segment as its shards tell it. `held` says of how many shards of each generation the nodes
    have one."""

    segment: StoredSegment
    held: Mapping[int, int]

    def is_better_than(self, generation: int) -> bool:
        """Whether it can be read, and that generation of the same bytes, an older one, cannot. A
        younger one was written after the nodes were asked, or they did not all answer."""
        k, ours = self.segment.k, self.segment.generation
        return ours > generation and self.held[ours] >= k > self.held.get(generation, 0)


def restore_segments(sql: Sql, layouts: Layouts, found: Sequence[Found]) -> None:
    """Insert those that are not known, or whose known generation cannot be read any more: a backup
    names what was deleted since, and perhaps written again. Passed over are those of which
    something is about to be deleted. Sessions to come get numbers above those found.

    Raises Conflict unless deletes are stopped, as they must be since the nodes were asked."""
    if not deletes_stopped(sql):
        raise Conflict("deletes were allowed while the metadata was rebuilt: rebuild it again")
    for each in found:
        if is_in_outbox(sql, each.segment):
            continue
        if not insert_segment(sql, layouts, each.segment):
            known = sql.row("SELECT generation FROM segment WHERE id = ?", each.segment.id)
            if known is not None and each.is_better_than(known[0]):
                replace_segment(sql, layouts, each.segment)
    generations = (each.segment.generation for each in found)
    last_session = max((each >> GENERATION_COUNTER_BITS for each in generations), default=0)
    sql.run("UPDATE cluster SET sessions = ? WHERE sessions < ?", last_session, last_session)


def restore_content(sql: Sql, listed: SegmentList, list_id: SegmentId) -> bool:
    """A content of several segments. False if it is there already; or if it is there in one, and of
    the several some are gone: then they are an older cut that is being collected."""
    ids = [id_ for id_, _ in listed.segments]
    there = {id_ for (id_,) in sql.rows_in("SELECT id FROM segment WHERE id IN ({keys})", ids)}
    in_one = sql.row("SELECT 1 FROM segment WHERE id = ?", listed.content) is not None
    if in_one and not there.issuperset(ids):
        return False
    added = sql.run(
        "INSERT INTO content (id, size_bytes, segment_count, segment_list, created_at) "
        "VALUES (?, ?, ?, ?, {wall}) ON CONFLICT DO NOTHING",
        listed.content, listed.size_bytes, len(listed.segments), list_id,
    )  # fmt: skip
    if added:
        for position, (segment, _) in enumerate(listed.segments):
            sql.run(
                "INSERT INTO content_segment VALUES (?, ?, ?)", listed.content, position, segment
            )
        pin(sql, listed.content)
    return added > 0


def restore_single_contents(sql: Sql) -> int:
    """Each plain segment that no list mentions is a content of its own, unless that was deleted
    and only waits to be collected; how many there are.

    Ends all sessions: their numbers may be among those whose generations were found.
    """
    sql.run("UPDATE session SET expires_at = {now} - 1")
    return sql.run(
        f"INSERT INTO pin (content, account, created_at) SELECT s.id, {DEFAULT_ACCOUNT}, {{wall}} "
        "FROM segment s WHERE s.encoding = ? "
        "AND NOT EXISTS (SELECT 1 FROM content_segment cs WHERE cs.segment = s.id) "
        "AND NOT EXISTS (SELECT 1 FROM pin p WHERE p.content = s.id) "
        "AND NOT EXISTS (SELECT 1 FROM collect_queue q WHERE q.content = s.id)",
        int(Encoding.PLAIN),
    )

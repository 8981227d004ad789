"""The transactions of a rebuild: what was found on nodes goes back into the tables."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from common.errors import Conflict
from common.ids import SegmentId
from common.segment_list import SegmentList
from common.shards import Encoding
from coordinator.metadata.cuts import forget_places, offer_to_collector
from coordinator.metadata.notices import survivors_of
from coordinator.metadata.outbox import is_in_outbox, pending_deletes
from coordinator.metadata.reads import SEGMENT_COLUMNS, SEGMENT_TABLES, segment_of
from coordinator.metadata.rows import (
    GENERATION_COUNTER_BITS,
    NO_NODE,
    UNKNOWN_CHECKSUM,
    DeleteReason,
    Places,
    StoredSegment,
)
from coordinator.metadata.sessions import (
    live_sessions,
    reasons,
    resume_deletes,
    stop_deletes,
)
from coordinator.metadata.sql import Sql
from coordinator.metadata.writes import (
    DEFAULT_ACCOUNT,
    UNREADABLE,
    Layouts,
    insert_segment,
    pin,
    put_anew,
    replace_segment,
)

REBUILDING = "the metadata is being rebuilt"
_RUN = re.compile(rf"{REBUILDING} by session (\d+), ")

UNUSED_LIST = (
    f"SELECT id FROM segment WHERE id = ? AND encoding = {int(Encoding.SEGMENT_LIST)} "
    "AND NOT EXISTS (SELECT 1 FROM content c WHERE c.segment_list = segment.id)"
)


@dataclass(frozen=True, slots=True)
class Found:
    """A segment as its shards tell it. `held` says of how many shards of each generation the nodes
    have one; `unreadable` is another generation of the same bytes that could not be read, `others`
    are further acts of writing it, the best first."""

    segment: StoredSegment
    held: Mapping[int, int]
    unreadable: int | None = None
    others: Sequence[StoredSegment] = ()

    def may_replace(self, generation: int) -> bool:
        """Whether the nodes that were asked have enough of it, and too little of that other
        generation of the same bytes."""
        k, ours = self.segment.k, self.segment.generation
        return self.held[ours] >= k > self.held.get(generation, 0)


class Rivals(NamedTuple):
    """Two acts of writing the same bytes: the one that nodes have, and the one that the database
    names."""

    found: Found
    known: StoredSegment


class Begun(NamedTuple):
    """A rebuild: why deletes are stopped meanwhile, and `cluster.doubted_epoch` as of then."""

    reason: str
    doubted_epoch: int


def begin_rebuild(sql: Sql, run: int) -> Begun:
    """Stop deletes, for a reason of which there is no other: while it stands, they were not allowed
    for a moment since. `run` is a number like a generation. What runs that were cut short have left
    goes. So do orders to quarantine what may be no orphan: the run looks at that, and what a late
    order takes from under a layout, the sweep takes back.

    Raises Conflict while a session lives that is at it."""
    session, number = run >> GENERATION_COUNTER_BITS, run % (1 << GENERATION_COUNTER_BITS)
    others = {reason: match[1] for reason in reasons(sql) if (match := _RUN.match(reason))}
    if live_sessions(sql) & set(map(int, others.values())):
        raise Conflict(
            f"{REBUILDING} already; if that was cut short, it can be tried again a minute later"
        )
    for left_over in others:
        resume_deletes(sql, left_over)
    reason = f"{REBUILDING} by session {session}, run {number}; run it again if that was cut short"
    stop_deletes(sql, reason)
    sql.run(
        "DELETE FROM outbox_delete WHERE why = ? AND (node, segment, generation) IN "
        "(SELECT node, segment, generation FROM set_aside)",
        int(DeleteReason.ORPHAN),
    )
    return Begun(reason, int(sql.only("SELECT doubted_epoch FROM cluster")[0]))


def end_rebuild(sql: Sql, begun: Begun) -> None:
    """It has found all nodes: from now on orphans are what this database takes for such."""
    sql.run("UPDATE cluster SET rebuilt_epoch = max(rebuilt_epoch, ?)", begun.doubted_epoch)
    sql.run("DELETE FROM set_aside")


def restore_segments(
    sql: Sql, layouts: Layouts, found: Sequence[Found], reason: str
) -> list[Rivals]:
    """Insert those that are not known. What is known and cannot be read any more is replaced: a
    backup names what was deleted since, and perhaps written again; and completed, if it is the
    same: it was found when nodes were away that are there now. Passed over are acts of writing of
    which something is about to be deleted, as of an upload that was refused since the nodes were
    asked: then the next best one counts. Sessions to come get numbers above those found.

    Given back are those of which only a look can tell: the nodes that were asked do not have what
    the database names, but it may lie on others, or have been written after they were asked. Which
    was written later, generations do not tell: a session has its number from when it began.

    Raises Conflict unless deletes are stopped for this reason, as they must be since the nodes were
    asked."""
    if reason not in reasons(sql):
        raise Conflict("deletes were allowed while the metadata was rebuilt: rebuild it again")
    rivals = list[Rivals]()
    for each in found:
        best = next((s for s in (each.segment, *each.others) if not is_in_outbox(sql, s)), None)
        if best is not None and not insert_segment(sql, layouts, best):
            rivals += _improve(sql, layouts, replace(each, segment=best))
    generations = (each.segment.generation for each in found)
    last_session = max((each >> GENERATION_COUNTER_BITS for each in generations), default=0)
    sql.run("UPDATE cluster SET sessions = ? WHERE sessions < ?", last_session, last_session)
    return rivals


def _improve(sql: Sql, layouts: Layouts, found: Found) -> list[Rivals]:
    """A segment that is known already; what restore_segments gives back of it."""
    id_, ours = found.segment.id, found.segment.generation
    row = sql.only(
        f"SELECT {SEGMENT_COLUMNS}, r.survivors FROM {SEGMENT_TABLES}WHERE s.id = ?", id_
    )
    known = segment_of(row[:-1])
    survivors = row[-1] if row[-1] is not None else survivors_of(known.layout)
    is_lost = survivors < known.k or found.unreadable == known.generation
    if known.generation != ours:
        if not found.may_replace(known.generation):
            return []
        if not is_lost:
            return [Rivals(found, known)]
        replace_segment(sql, layouts, found.segment)
    elif is_lost:
        joined = _joined(known, found.segment, pending_deletes(sql, known))
        if (joined.layout, joined.checksums) != (known.layout, known.checksums):
            put_anew(sql, layouts, joined)
    return []


def _joined(known: StoredSegment, found: StoredSegment, forbidden: Places) -> StoredSegment:
    """As `known`, with the shards that were found where no delete may be on its way. Of shards that
    nobody had at an earlier rebuild no checksum is known: that of the node counts, as it does for
    all that is found."""
    layout, checksums = list(known.layout), list[bytes]()
    for index, node in enumerate(found.layout):
        checksum = known.checksum(index)
        is_right = checksum in (UNKNOWN_CHECKSUM, found.checksum(index))
        if node != NO_NODE and is_right and (index, node) not in forbidden:
            layout[index], checksum = node, found.checksum(index)
        checksums.append(checksum)
    return replace(known, layout=tuple(layout), checksums=b"".join(checksums))


def restore_content(sql: Sql, listed: SegmentList, list_id: SegmentId, lost: bool) -> bool:
    """A content of several segments. False if it is there already, unless what is there is `lost`
    and this is not; or if it was deleted. Then nothing may need the list."""
    if lost:
        forget_places(sql, listed.content)
    elif _is_known(sql, listed):
        offer_to_collector(sql, UNUSED_LIST, list_id)
        return False
    sql.run(
        "INSERT INTO content (id, size_bytes, segment_count, segment_list, created_at) "
        "VALUES (?, ?, ?, ?, {wall})",
        listed.content, listed.size_bytes, len(listed.segments), list_id,
    )  # fmt: skip
    for position, (segment, _) in enumerate(listed.segments):
        sql.run("INSERT INTO content_segment VALUES (?, ?, ?)", listed.content, position, segment)
    pin(sql, listed.content)
    return True


def _is_known(sql: Sql, listed: SegmentList) -> bool:
    """Whether it is known how the content is cut, or that it was deleted. If it is there in one
    segment too, the list is that of an older or a younger cut: it counts if it is all there, unless
    the content is visible as the one. A mark always does: the one is what it lists."""
    id_, ids = listed.content, set(listed.ids())
    if sql.exists("SELECT 1 FROM content WHERE id = ?", id_):
        return True
    if ids == {SegmentId(id_)}:
        return False
    in_one = _readable(sql, [id_]) > 0
    if sql.exists("SELECT 1 FROM pin WHERE content = ?", id_):
        return in_one
    if sql.exists("SELECT 1 FROM collect_queue WHERE content = ?", id_):
        return True
    return in_one and _readable(sql, ids) < len(ids)


def _readable(sql: Sql, ids: Iterable[bytes]) -> int:
    """How many of these segments are there, and not known to be lost."""
    readable = f"SELECT 1 FROM segment s WHERE id IN ({{keys}}) AND NOT EXISTS ({UNREADABLE})"
    return len(sql.rows_in(readable, ids))


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

"""Uploads that outlast nodes: what they have stored on nodes that are gone by now does not count.

The transaction that commits them must look. Before it, repair could not see their layouts, and an
operator was told that nothing lay on those nodes; after it, the client has its answer.
"""

from collections.abc import Iterable
from dataclasses import replace

from common.errors import SegmentGone, SixfoldError, Undurable
from common.ids import SegmentId
from coordinator.metadata.notices import LEFT_JOIN_QUEUE, survivors_of
from coordinator.metadata.packing import unpack_layout
from coordinator.metadata.rows import NO_NODE, NewContent, StoredSegment, Wish
from coordinator.metadata.sql import Sql
from coordinator.metadata.writes import shards_of
from coordinator.placement import is_quorum

# Given after how many seconds of silence a node is lost: those, and the ones that were removed, in
# one row, since each row costs a turn of the GIL. Times are whole seconds: rather a second before
# repair takes a node to be lost than after.
GONE_NODES = (
    f"SELECT group_concat(number) FROM (SELECT number FROM node WHERE wish = '{Wish.REMOVED}' "
    "UNION ALL SELECT node FROM node_report WHERE reported_at <= {now} + 1 - ?)"
)


def gone_nodes(sql: Sql, lost_after_s: float) -> frozenset[int]:
    """Those that were removed, and those that have not reported for so long that they are lost."""
    found = sql.only(GONE_NODES, lost_after_s)
    return numbers_in(found[0])


def numbers_in(concatenated: str | None) -> frozenset[int]:
    return frozenset(map(int, concatenated.split(","))) if concatenated else frozenset()


def without_gone(sql: Sql, new: NewContent, gone: frozenset[int]) -> NewContent:
    """The upload as if its shards on these nodes had never been confirmed.

    Raises Undurable if what is left of a segment that it wrote is no quorum, SegmentGone if fewer
    than k shards are left of one that it found there.
    """
    written = {segment.id: segment for segment in new.written}
    doubtful = written.keys() | {s.id for s in new.segments if not gone.isdisjoint(s.layout)}
    if not gone or not doubtful:
        return new
    left = [_without(segment, gone) for segment in new.written]
    if error := next(filter(None, map(_shortfall, left)), None):
        raise error
    worse = _unreadable(sql, doubtful, gone)
    if not worse.keys() <= written.keys():
        raise SegmentGone("the nodes of a segment were lost while it was uploaded again; try again")
    lost = [s for segment in new.written for s in shards_of(segment) if s.node in gone]
    return replace(
        new,
        written=left,
        unconfirmed=[*new.unconfirmed, *lost],
        unreadable={**new.unreadable, **worse},
    )


def _without(segment: StoredSegment, gone: frozenset[int]) -> StoredSegment:
    layout = _layout_without(segment.layout, gone)
    return segment if layout == segment.layout else replace(segment, layout=layout)


def _layout_without(layout: tuple[int, ...], gone: frozenset[int]) -> tuple[int, ...]:
    return tuple(NO_NODE if node in gone else node for node in layout)


def _shortfall(segment: StoredSegment) -> SixfoldError | None:
    nodes = [node for node in segment.layout if node != NO_NODE]
    if is_quorum(nodes, segment.n, segment.k):
        return None
    return Undurable(
        f"only {len(nodes)} of {segment.n} shards are left: nodes were removed or lost while the "
        "upload ran; try again"
    )


def _unreadable(sql: Sql, ids: Iterable[SegmentId], gone: frozenset[int]) -> dict[SegmentId, int]:
    """Those of these segments that are in the database, and of which too little is left there, with
    their generations."""
    rows = sql.rows_in(
        "SELECT s.id, s.generation, s.k, l.nodes, r.bad FROM segment s "
        f"JOIN layout l ON l.id = s.layout {LEFT_JOIN_QUEUE}WHERE s.id IN ({{keys}})",
        ids,
    )
    return {
        SegmentId(id_): generation
        for id_, generation, k, nodes, bad in rows
        if survivors_of(_layout_without(unpack_layout(nodes), gone), bad or 0) < k
    }

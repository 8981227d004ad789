"""Commits of new contents, many in one transaction with few statements.

Most uploads are small and alike: one new segment, all its shards durable. Those of a group are
inserted together, a statement per table, in less than half the time; all others, and those that
find a row of theirs taken, go through `commit_content`.
"""

import math
from collections.abc import Sequence, Set
from typing import Any, NamedTuple

from common.errors import SixfoldError
from common.ids import ContentId
from coordinator.metadata.cuts import forget_cut
from coordinator.metadata.gone import GONE_NODES, numbers_in, without_gone
from coordinator.metadata.packing import signed
from coordinator.metadata.rows import (
    GENERATION_COUNTER_BITS,
    NO_NODE,
    Committed,
    NewContent,
    StoredSegment,
)
from coordinator.metadata.sessions import LIVE_SESSION, session_lost
from coordinator.metadata.sql import Sql
from coordinator.metadata.writes import (
    DEFAULT_ACCOUNT,
    Layouts,
    commit_content,
)

Outcome = Committed | SixfoldError
_DONE = Committed(new=True)  # with all that was written

MARKED = "(segment_count = 1 AND segment_list IS NOT NULL)"  # see `marks`

# Without RETURNING: SQLite hands rows out one by one, and each costs a turn of the GIL.
_SEGMENTS = (
    "INSERT INTO segment (id, size_bytes, stored_bytes, encoding, k, n, generation, layout, "
    "checksums, touched_at) VALUES {rows} ON CONFLICT DO NOTHING",
    "(?, ?, ?, ?, ?, ?, ?, ?, ?, {now})",
)
PINS = (
    "INSERT INTO pin (content, account, created_at) VALUES {rows} ON CONFLICT DO NOTHING",
    f"(?, {DEFAULT_ACCOUNT}, {{wall}})",
)


def commit_contents(
    sql: Sql,
    layouts: Layouts,
    session: int,
    uploads: Sequence[NewContent],
    lost_after_s: float = math.inf,
) -> list[Outcome]:
    """For each what `commit_content` gives, or the error that it raises; as if they had been
    committed one after another. What lies on nodes that were removed, or have been silent for
    `lost_after_s`, does not count (see `gone`)."""
    if not uploads:
        return []
    known = _look(sql, session, lost_after_s, uploads)
    if not known.session_lives:
        return [session_lost() for _ in uploads]
    layouts.compare(known.forgotten)
    alike = _alike(uploads, session, known)
    done = _insert(sql, layouts, [new for new in uploads if id(new) in alike])
    return [
        _DONE if id(new) in done else _alone(sql, layouts, session, new, known) for new in uploads
    ]


class _Known(NamedTuple):
    """What must be known of the database before. `recut` are the contents of one segment that are
    cut into several so far, or by another upload of the group; `forgotten` is for `Layouts`."""

    session_lives: bool
    gone: frozenset[int]
    recut: Set[bytes]
    forgotten: int


def _look(sql: Sql, session: int, lost_after_s: float, uploads: Sequence[NewContent]) -> _Known:
    """For the whole group in one statement, which is one of few: the ids are filled up to a power
    of two."""
    ids: list[bytes] = [new.id for new in uploads if len(new.segments) == 1] or [b""]
    several = {new.id for new in uploads if len(new.segments) > 1}.intersection(ids)
    padded = ids + ids[:1] * ((1 << (len(ids) - 1).bit_length()) - len(ids))
    marks = ",".join("?" * len(padded))
    found = sql.only(
        f"SELECT EXISTS ({LIVE_SESSION}), ({GONE_NODES}), "
        f"(SELECT group_concat(hex(id)) FROM content WHERE id IN ({marks}) AND NOT {MARKED}), "
        "(SELECT layouts_forgotten FROM cluster)",
        session, lost_after_s, *padded,
    )  # fmt: skip
    lives, gone, recut, forgotten = found
    cut = {bytes.fromhex(id_) for id_ in recut.split(",")} if recut else set[bytes]()
    return _Known(bool(lives), numbers_in(gone), cut | several, forgotten)


def _alike(uploads: Sequence[NewContent], session: int, known: _Known) -> set[int]:
    """Those to insert together, by Python's `id`: of equal contents the first only."""
    first: dict[ContentId, NewContent] = {}
    for new in uploads:
        if (
            _is_plain(new, session)
            and known.gone.isdisjoint(new.segments[0].layout)
            and new.id not in known.recut
        ):
            first.setdefault(new.id, new)
    return {id(new) for new in first.values()}


def _is_plain(new: NewContent, session: int) -> bool:
    """One segment, written by this upload in this session, of which nothing is missing or in
    doubt."""
    return (
        len(new.segments) == len(new.written) == 1
        and not new.unconfirmed
        and new.segment_list is None
        and NO_NODE not in new.segments[0].layout
        and new.segments[0].generation >> GENERATION_COUNTER_BITS == session
    )


def _insert(sql: Sql, layouts: Layouts, uploads: Sequence[NewContent]) -> set[int]:
    """Which of them, by Python's `id`, are visible now and were not before. Of the others, which
    found their segment there, not a row was written."""
    segments = [new.segments[0] for new in uploads]
    inserted = sql.insert_rows(*_SEGMENTS, [_segment_row(layouts, each) for each in segments])
    if inserted < len(uploads):
        ours = _ours(sql, layouts, segments)
        uploads = [new for new in uploads if new.id in ours]
    # A segment that was not there belonged to no content: none of these pins can be there.
    sql.insert_rows(*PINS, [(new.id,) for new in uploads])
    return {id(new) for new in uploads}


def _ours(sql: Sql, layouts: Layouts, segments: Sequence[StoredSegment]) -> set[bytes]:
    """Those that stand in the database as we wrote them."""
    written = {s.id: (s.generation, layouts.intern(s.layout), s.checksums) for s in segments}
    rows = sql.rows_in(
        "SELECT id, generation, layout, checksums FROM segment WHERE id IN ({keys})", written
    )
    return {id_ for id_, *row in rows if written[id_] == tuple(row)}


def _segment_row(layouts: Layouts, segment: StoredSegment) -> tuple[Any, ...]:
    size_bytes, layout = segment.size_bytes, layouts.intern(segment.layout)
    return (
        segment.id, size_bytes, size_bytes, int(segment.encoding), segment.k, segment.n,
        signed(segment.generation), layout, segment.checksums,
    )  # fmt: skip


def _alone(sql: Sql, layouts: Layouts, session: int, new: NewContent, known: _Known) -> Outcome:
    try:
        committed = commit_content(sql, layouts, session, without_gone(sql, new, known.gone))
    except SixfoldError as error:
        return error
    if new.id in known.recut and len(new.segments) == 1 and new.start_bytes is None:
        forget_cut(sql, new.id)
    return committed

"""Marks: of contents of one segment that is a segment of another content too, or its list.

A rebuild of the metadata takes each segment that a list names for a piece of that list's content,
and what was stored as a list for nothing else. So a content that is such a segment gets a list of
its own, of one entry, and comes back by that. Every upload asks for it when it has committed, and
before it is answered; so it does not matter which of the two contents came first. The rules for
transactions are those of `writes`.
"""

from collections.abc import Callable, Iterable, Sequence
from functools import partial

from common.ids import SegmentId
from common.shards import Encoding
from coordinator.metadata.mending import Read, Write
from coordinator.metadata.reads import SEGMENT_COLUMNS, SEGMENT_TABLES, segment_of
from coordinator.metadata.rows import DeleteReason, NewContent, StoredSegment
from coordinator.metadata.sessions import DOUBTFUL
from coordinator.metadata.sql import Sql
from coordinator.metadata.writes import (
    UNREADABLE,
    Layouts,
    add_deletes,
    commit_content,
    shards_of,
)

# Of content c: its list, unless that is known to be lost, or only a backup says that it is there.
SURE_LIST = (
    "SELECT s.id FROM segment s WHERE s.id = c.segment_list "
    f"AND NOT ({DOUBTFUL}) AND NOT EXISTS ({UNREADABLE})"
)

# Segment s seems to be there for another content, or for one that is being deleted: as long as its
# list is on the nodes, a rebuild finds that. The collector dooms lists before their segments.
IN_ANOTHER = (
    f"s.encoding = {int(Encoding.SEGMENT_LIST)} "
    "OR EXISTS (SELECT 1 FROM content_segment cs WHERE cs.segment = s.id) "
    "OR EXISTS (SELECT 1 FROM outbox_delete o WHERE o.segment = s.id "
    f"AND o.why = {int(DeleteReason.DOOMED)})"
)


def lacking(sql: Sql, ids: Iterable[SegmentId]) -> list[StoredSegment]:
    """Those of these segments that are contents, and pieces or lists of others, and have no mark;
    or one that may not be there any more."""
    rows = sql.rows_in(
        f"SELECT {SEGMENT_COLUMNS} FROM {SEGMENT_TABLES}WHERE s.id IN ({{keys}}) "
        f"AND ({IN_ANOTHER}) "
        "AND EXISTS (SELECT 1 FROM pin p WHERE p.content = s.id) "
        "AND NOT EXISTS (SELECT 1 FROM content c WHERE c.id = s.id AND "
        f"(c.segment_list IS NULL OR c.segment_list IN ({SURE_LIST})))",
        ids,
    )
    return list(map(segment_of, rows))


def commit_mark(sql: Sql, layouts: Layouts, session: int, mark: NewContent) -> None:
    """The content as it is there, with the list of its one segment; unless it was deleted
    meanwhile, or another upload has marked it: then what was written of the list is deleted."""
    if lacking(sql, [segment.id for segment in mark.segments]):
        commit_content(sql, layouts, session, mark)
        return
    needless = [shards for segment in mark.written for shards in shards_of(segment)]
    add_deletes(sql, [*needless, *mark.unconfirmed], DeleteReason.LEFTOVER)


class Marks:
    """The part of Metadata that is about them."""

    def __init__(
        self, read: Read, write: Write, layouts: Layouts, session: Callable[[], int]
    ) -> None:
        self._read, self._write = read, write
        self._layouts, self._session = layouts, session

    async def lacking(self, segments: Sequence[StoredSegment]) -> list[StoredSegment]:
        """Those that are contents, and pieces or lists of others, and have no mark."""
        ids = {segment.id for segment in segments}
        return await self._read(partial(lacking, ids=ids))

    async def commit(self, mark: NewContent) -> None:
        """Raises as the commit of a new content."""
        session = self._session()
        await self._write(partial(commit_mark, layouts=self._layouts, session=session, mark=mark))

"""What a job, and a rebuild, need of the database to look into bundles."""

from collections.abc import Awaitable, Callable, Iterable, Sequence
from functools import partial
from typing import Any

from common.ids import ContentId, SegmentId
from coordinator.metadata.bundles import (
    not_now,
    note_waste,
    wasteful,
)
from coordinator.metadata.commits import PINS
from coordinator.metadata.cuts import (
    AS_ONE_SEGMENT,
    forget_cut,
    insert_parts,
    offer_to_collector,
)
from coordinator.metadata.rows import Bundled, StoredSegment
from coordinator.metadata.sql import Sql
from coordinator.metadata.writes import SEGMENTS_BEHIND

Run = Callable[[Callable[[Sql], Any]], Awaitable[Any]]


def is_known(sql: Sql, bundle: SegmentId) -> bool:
    """Whether the database knows what is needed of it, which may be nothing."""
    found = sql.row(
        "SELECT 1 FROM content_segment WHERE segment = ? "
        "UNION ALL SELECT 1 FROM collect_queue WHERE content = ?",
        bundle, bundle,
    )  # fmt: skip
    return found is not None


def restore_parts(sql: Sql, bundle: StoredSegment, parts: Sequence[Bundled]) -> int:
    """How many of these contents were not visible, and are now. They have just been read: so they
    are in this bundle from now on, unless the database knows a later place of them; it may be a
    backup, and tell of an earlier one. None of a bundle of which the database knows what is needed:
    the rest was deleted."""
    if is_known(sql, bundle.id):
        return 0
    wanted = {part.id: part for part in parts if _belongs_here(sql, part.id, bundle.generation)}
    for id_ in wanted:
        forget_cut(sql, id_)
        offer_to_collector(sql, AS_ONE_SEGMENT, id_)
    insert_parts(sql, bundle.id, list(wanted.values()))
    restored = sql.insert_rows(*PINS, [(id_,) for id_ in wanted])
    if wanted:
        note_waste(sql, bundle.id)
    else:
        offer_to_collector(sql, AS_ONE_SEGMENT, bundle.id)
    return restored


def _belongs_here(sql: Sql, content: ContentId, generation: int) -> bool:
    """Unless it was deleted, or is known to be in what was written later."""
    return not sql.row(
        "SELECT 1 FROM collect_queue WHERE content = ? UNION ALL SELECT 1 FROM segment "
        f"WHERE id IN ({SEGMENTS_BEHIND}) AND generation > ? "
        "AND EXISTS (SELECT 1 FROM pin WHERE content = ?)",
        content, content, content, content, generation, content,
    )  # fmt: skip


class Rebundling:
    """The part of Metadata that is about bundles."""

    def __init__(self, read: Run, write: Run) -> None:
        self._read, self._write = read, write

    async def wasteful(self, limit: int) -> list[tuple[StoredSegment, list[Bundled]]]:
        """Bundles of which most is not needed, those that wait longest first, and what is."""
        found: list[tuple[StoredSegment, list[Bundled]]]
        found = await self._read(partial(wasteful, limit=limit))
        return found

    async def not_now(self, bundles: Iterable[SegmentId]) -> None:
        """These cannot be moved: others first."""
        await self._write(partial(not_now, bundles=tuple(bundles)))

    async def is_known(self, bundle: SegmentId) -> bool:
        """Whether the database knows what is needed of it."""
        known: bool = await self._read(partial(is_known, bundle=bundle))
        return known

    async def restore_parts(self, bundle: StoredSegment, parts: Sequence[Bundled]) -> int:
        """How many of these contents were not visible, and are now."""
        restored: int = await self._write(partial(restore_parts, bundle=bundle, parts=parts))
        return restored

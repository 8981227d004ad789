"""What a job, and a rebuild, need of the database to look into bundles."""

from collections.abc import Sequence, Set
from functools import partial

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
    forget_places,
    insert_parts,
    offer_to_collector,
)
from coordinator.metadata.mending import Read, Write
from coordinator.metadata.packing import signed
from coordinator.metadata.rows import Bundled, StoredSegment
from coordinator.metadata.sql import Sql


def is_known(sql: Sql, bundle: SegmentId) -> bool:
    """Whether the database knows what is needed of it, which may be nothing."""
    return sql.exists(
        "SELECT 1 FROM content_segment WHERE segment = ? "
        "UNION ALL SELECT 1 FROM collect_queue WHERE content = ?",
        bundle, bundle,
    )  # fmt: skip


def restore_parts(
    sql: Sql, bundle: StoredSegment, parts: Sequence[Bundled], lost: Set[ContentId]
) -> int:
    """How many of these contents were not visible, and are now. They have just been read: so those
    that are not known, or are `lost` where they are known to be, are in this bundle from now on.
    None of a bundle that the database does not have, since it is being deleted, or of which it
    knows what is needed: the rest was deleted."""
    is_there = sql.exists(
        "SELECT 1 FROM segment WHERE id = ? AND generation = ?",
        bundle.id, signed(bundle.generation),
    )  # fmt: skip
    if is_known(sql, bundle.id) or not is_there:
        return 0
    wanted = {part.id: part for part in parts if part.id in lost or _is_new(sql, part.id)}
    for id_ in wanted:
        forget_places(sql, id_)
    insert_parts(sql, bundle.id, list(wanted.values()))
    restored = sql.insert_rows(*PINS, [(id_,) for id_ in wanted])
    if wanted:
        note_waste(sql, bundle.id)
    else:
        offer_to_collector(sql, AS_ONE_SEGMENT, bundle.id)
    return restored


def _is_new(sql: Sql, content: ContentId) -> bool:
    """Neither visible nor deleted."""
    return not sql.exists(
        "SELECT 1 FROM pin WHERE content = ? UNION ALL SELECT 1 FROM collect_queue "
        "WHERE content = ?",
        content, content,
    )  # fmt: skip


def cut_and_alone(sql: Sql) -> list[ContentId]:
    """Contents in bundles, or cut into several segments, that are there as segments of their own
    too."""
    rows = sql.rows(
        "SELECT c.id FROM content c JOIN segment s ON s.id = c.id WHERE NOT EXISTS "
        "(SELECT 1 FROM content_segment cs WHERE cs.content = c.id AND cs.segment = c.id)"
    )
    return [ContentId(id_) for (id_,) in rows]


class Rebundling:
    """The part of Metadata that is about bundles."""

    def __init__(self, read: Read, write: Write) -> None:
        self._read, self._write = read, write

    async def wasteful(self, limit: int) -> list[tuple[StoredSegment, list[Bundled]]]:
        """Bundles of which most is not needed, those that wait longest first, and what is."""
        return await self._read(partial(wasteful, limit=limit))

    async def not_now(self, bundle: SegmentId) -> None:
        """It cannot be read: others first."""
        await self._write(partial(not_now, bundle=bundle))

    async def cut_and_alone(self) -> list[ContentId]:
        """Contents in bundles, or cut into several segments, that are there as segments of their
        own too."""
        return await self._read(cut_and_alone)

    async def take_alone(self, content: ContentId) -> None:
        """It is its own segment from now on."""
        await self._write(partial(forget_cut, content=content))

    async def is_known(self, bundle: SegmentId) -> bool:
        """Whether the database knows what is needed of it."""
        return await self._read(partial(is_known, bundle=bundle))

    async def restore_parts(
        self, bundle: StoredSegment, parts: Sequence[Bundled], lost: Set[ContentId]
    ) -> int:
        """How many of these contents were not visible, and are now; `lost` are those that cannot be
        read where they are known to be."""
        return await self._write(partial(restore_parts, bundle=bundle, parts=parts, lost=lost))

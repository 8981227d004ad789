"""What mending needs of the database beside its queue: layouts that change.

A layout changes by compare-and-set on (segment, generation, layout), in one transaction with what
follows from it for the outbox. Three rules keep a delete from hitting a shard that is needed. While
the outbox names a shard of a node, the delete may be on its way: no layout may come to name it
there. What a mender has put on nodes in vain goes to the outbox only where the layout, as it is
then, does not name it: another may have put the same shard on the same node, and won. And what it
has only found there never goes to the outbox: it may be the last there is.
"""

import math
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Protocol, TypeVar

from common.failpoints import Point, failpoint
from common.ids import ShardAddress
from coordinator.metadata import repair_queue
from coordinator.metadata.gone import gone_nodes
from coordinator.metadata.outbox import pending_deletes
from coordinator.metadata.packing import mask_of, signed, unpack_layout
from coordinator.metadata.repair_queue import Backlog, Repair
from coordinator.metadata.rows import (
    NO_NODE,
    UNUSED_S,
    DeleteReason,
    Places,
    Seen,
    ShardsOnNode,
    StoredSegment,
)
from coordinator.metadata.sql import Sql
from coordinator.metadata.writes import (
    Layouts,
    add_deletes,
)

T = TypeVar("T")
LAYOUTS_AT_ONCE = 1_000


@dataclass(frozen=True, slots=True)
class Forbidden:
    """Where no shard of a segment may be put, and when that was asked, by the database's clock."""

    places: Places
    asked_at_s: int


def forbidden(sql: Sql, stored: StoredSegment) -> Forbidden:
    return Forbidden(pending_deletes(sql, stored), sql.now_s())


def _layout_now(sql: Sql, stored: StoredSegment) -> tuple[int, ...] | None:
    """Of this very write of the segment; None if it is gone."""
    row = sql.row(
        "SELECT l.nodes FROM segment s JOIN layout l ON l.id = s.layout "
        "WHERE s.id = ? AND s.generation = ?",
        stored.id, signed(stored.generation),
    )  # fmt: skip
    return unpack_layout(row[0]) if row else None


def switch_layout(
    sql: Sql,
    layouts: Layouts,
    stored: StoredSegment,
    moved: Mapping[int, int],
    asked_at_s: int,
    found: bool = False,
) -> bool:
    """Shard i of `stored`, whose checksums are known by now, lies on node moved[i] too: let the
    layout say so, and retire what it named before. False if the segment is not any more as `stored`
    says, one of these places is about to be deleted, or it is too long ago that this was asked:
    they may have been, and that be forgotten; or a node was removed. Then what was put there in
    vain is deleted; what was only `found` there stays, and the sweep sees to it."""
    places = Places(moved.items())
    if not _may_be_named(sql, stored, places, asked_at_s):
        if not found:
            give_up(sql, stored, places)
        return False
    layout = tuple(moved.get(index, node) for index, node in enumerate(stored.layout))
    sql.run(
        "UPDATE segment SET layout = ?, checksums = ? WHERE id = ? AND generation = ?",
        layouts.intern(layout), stored.checksums, stored.id, signed(stored.generation),
    )  # fmt: skip
    sql.run(
        "UPDATE repair_queue SET bad = bad & ~? WHERE segment = ? AND generation = ?",
        mask_of(moved), stored.id, signed(stored.generation),
    )  # fmt: skip
    retired = [(i, stored.layout[i]) for i in moved if stored.layout[i] not in (NO_NODE, moved[i])]
    add_deletes(sql, _on_nodes(stored, retired), DeleteReason.RETIRED)
    failpoint(Point.MEND_SWITCH_BEGUN)
    return True


def _may_be_named(sql: Sql, stored: StoredSegment, places: Places, asked_at_s: int) -> bool:
    late = sql.now_s() - asked_at_s >= UNUSED_S
    removed = gone_nodes(sql, math.inf) & {node for _, node in places}
    changed = _layout_now(sql, stored) != stored.layout
    return not (late or removed or changed or places & pending_deletes(sql, stored))


def give_up(sql: Sql, stored: StoredSegment, places: Iterable[tuple[int, int]]) -> None:
    """What a mender may have put there is not needed, unless the layout names it by now."""
    now = _layout_now(sql, stored)
    in_vain = [(i, node) for i, node in places if now is None or now[i] != node]
    add_deletes(sql, _on_nodes(stored, in_vain), DeleteReason.LEFTOVER)


def _on_nodes(stored: StoredSegment, places: Iterable[tuple[int, int]]) -> list[ShardsOnNode]:
    return [ShardsOnNode(node, (stored.address(index),)) for index, node in places]


def set_whole(sql: Sql, stored: StoredSegment, survivors: int, verified: bool) -> None:
    """All shards of the segment, as `stored` says it is, lie where they should; `verified` if all
    have been read and found good. What was found to be bad since `stored` was read is not
    forgotten, nor is that it has fewer than the `survivors` of then: then it is not verified."""
    if _layout_now(sql, stored) != stored.layout:
        return
    key = (stored.id, signed(stored.generation))
    sql.run(
        "DELETE FROM repair_queue WHERE segment = ? AND generation = ? AND bad & ~? = 0 "
        "AND survivors >= ?",
        *key, stored.known_bad, survivors,
    )  # fmt: skip
    if verified:
        sql.run(
            "UPDATE segment SET verified_at = {now} WHERE id = ? AND generation = ? "
            "AND NOT EXISTS (SELECT 1 FROM repair_queue r WHERE r.segment = segment.id)",
            *key,
        )


@dataclass(frozen=True, slots=True)
class LayoutLoad:
    """A layout, how many segments have it, and what all of them together put on each shard's
    node: `shard_bytes`."""

    id: int
    layout: tuple[int, ...]
    segments: int
    shard_bytes: int


def layout_loads(sql: Sql, after: int, limit: int) -> list[LayoutLoad]:
    """Of `limit` layouts at most, in order of their ids, from behind `after` on. It reads all
    their segments."""
    rows = sql.rows(
        "SELECT l.id, l.nodes, count(s.id), coalesce(sum((s.size_bytes + s.k - 1) / s.k), 0) "
        "FROM (SELECT id, nodes FROM layout WHERE id > ? ORDER BY id LIMIT ?) l "
        "LEFT JOIN segment s ON s.layout = l.id GROUP BY l.id, l.nodes ORDER BY l.id",
        after, limit,
    )  # fmt: skip
    return [LayoutLoad(id_, unpack_layout(nodes), *counts) for id_, nodes, *counts in rows]


class Read(Protocol):
    def __call__(self, query: Callable[[Sql], T]) -> Awaitable[T]: ...


class Write(Protocol):
    def __call__(self, change: Callable[[Sql], T]) -> Awaitable[T]: ...


class Mending:
    """The part of Metadata that mending uses; each method is as the function of its name, here or
    in `repair_queue`."""

    def __init__(self, read: Read, write: Write, layouts: Layouts) -> None:
        self._read, self._write, self._layouts = read, write, layouts

    async def due_repairs(self, survivors: Iterable[int], limit: int) -> list[Repair]:
        query = partial(repair_queue.due_repairs, survivors=survivors, limit=limit)
        return await self._read(query)

    async def backlog(self, k: int, n: int) -> Backlog:
        return await self._read(partial(repair_queue.backlog, k=k, n=n))

    async def queue_rotten(self, node: int, rotten: Sequence[ShardAddress]) -> list[ShardAddress]:
        return await self._write(partial(repair_queue.queue_rotten, node=node, rotten=rotten))

    async def forbidden(self, stored: StoredSegment) -> Forbidden:
        return await self._read(partial(forbidden, stored=stored))

    async def switch_layout(
        self,
        stored: StoredSegment,
        moved: Mapping[int, int],
        asked_at_s: int,
        found: bool = False,
    ) -> bool:
        return await self._write(
            partial(
                switch_layout,
                layouts=self._layouts,
                stored=stored,
                moved=moved,
                asked_at_s=asked_at_s,
                found=found,
            )
        )

    async def give_up(self, stored: StoredSegment, places: Places) -> None:
        await self._write(partial(give_up, stored=stored, places=places))

    async def set_whole(self, stored: StoredSegment, survivors: int, verified: bool) -> None:
        change = partial(set_whole, stored=stored, survivors=survivors, verified=verified)
        await self._write(change)

    async def postpone(
        self, stored: StoredSegment, seen: Seen | None, reason: str, delay_s: int
    ) -> None:
        change = partial(
            repair_queue.postpone, stored=stored, seen=seen, reason=reason, delay_s=delay_s
        )
        await self._write(change)

    async def try_again_now(self, k: int, limit: int) -> None:
        await self._write(partial(repair_queue.try_again_now, k=k, limit=limit))

    async def queue_layouts(self, found: Sequence[tuple[int, int, str]]) -> None:
        await self._write(partial(repair_queue.queue_layouts, found=found))

    async def forget_layouts(self, ids: Sequence[int]) -> None:
        """Those of these that no segment has."""
        await self._write(lambda sql: self._layouts.forget_unused(ids))

    async def layout_loads(self, after: int, limit: int) -> list[LayoutLoad]:
        return await self._read(partial(layout_loads, after=after, limit=limit))

    async def all_layout_loads(self) -> AsyncIterator[LayoutLoad]:
        """Page by page, so that no look at the database takes long."""
        after = 0
        while page := await self.layout_loads(after, LAYOUTS_AT_ONCE):
            for load in page:
                yield load
            after = page[-1].id

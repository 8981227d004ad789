"""The transactions. Each function runs inside one, together with others (group commit), so it
checks first and writes after: what raises a SixfoldError has written nothing."""

from collections.abc import Iterable
from dataclasses import dataclass, field, replace

from common.errors import Conflict, SegmentGone
from common.ids import ContentId, SegmentId, ShardAddress
from coordinator.metadata.cuts import set_cut, set_part
from coordinator.metadata.notices import queue_repair
from coordinator.metadata.outbox import pending_deletes
from coordinator.metadata.packing import pack_layout, signed, unpack_layout
from coordinator.metadata.rows import (
    GENERATION_COUNTER_BITS,
    NO_NODE,
    Committed,
    DeleteReason,
    NewContent,
    NodeRow,
    RepairNotice,
    ShardsOnNode,
    StoredSegment,
    Wish,
)
from coordinator.metadata.sessions import DOUBTFUL, check_session
from coordinator.metadata.sql import Sql

DEFAULT_ACCOUNT = 0
MAX_LAYOUTS = 8_192  # remembered

# Given a content's id three times: the ids of its segments, and of the list of them.
SEGMENTS_BEHIND = (
    "SELECT ? UNION ALL SELECT segment FROM content_segment WHERE content = ? "
    "UNION ALL SELECT segment_list FROM content WHERE id = ?"
)

# Of segment s it is known that fewer than k good shards are left.
UNREADABLE = (
    "SELECT 1 FROM repair_queue r WHERE r.segment = s.id AND r.generation = s.generation "
    "AND r.survivors < s.k"
)


@dataclass
class Layouts:
    """Interns layouts. On few nodes there are few; on many hardly one comes twice: so only the
    latest are looked for, and these in memory.

    Another process may have forgotten one of them since. `cluster.layouts_forgotten` counts how
    often any has, and each transaction compares that before it relies on what is in memory.
    """

    sql: Sql
    _ids: dict[bytes, int] = field(default_factory=dict)
    _forgotten: int = 0  # the count by which _ids are right
    _compared: bool = False  # in this transaction

    def begin(self) -> None:
        """A transaction begins."""
        self._compared = False

    def compare(self, forgotten: int) -> None:
        """What this transaction has found in `cluster.layouts_forgotten`."""
        if forgotten != self._forgotten:
            self.forget()
        self._forgotten, self._compared = forgotten, True

    def intern(self, layout: tuple[int, ...]) -> int:
        if not self._compared:
            found = self.sql.only("SELECT layouts_forgotten FROM cluster")
            self.compare(found[0])
        packed = pack_layout(layout)
        if not self._ids or len(self._ids) >= MAX_LAYOUTS:
            self._ids = self._latest()
        known = self._ids.get(packed)
        if known is None:
            known = self.sql.insert("INSERT INTO layout (nodes) VALUES (?)", packed)
            self._ids[packed] = known
        return known

    def _latest(self) -> dict[bytes, int]:
        rows = self.sql.rows(
            "SELECT nodes, id FROM layout ORDER BY id DESC LIMIT ?", MAX_LAYOUTS // 2
        )
        return {bytes(nodes): int(id_) for nodes, id_ in rows}

    def forget(self) -> None:
        """After a rollback: what was interned in it may not exist."""
        self._ids.clear()

    def forget_unused(self, ids: Iterable[int]) -> None:
        """Delete those of these layouts that no segment has. The latest of all stays, so that no
        number comes a second time."""
        deleted = sum(
            self.sql.run(
                "DELETE FROM layout WHERE id = ? AND id < (SELECT max(id) FROM layout) "
                "AND NOT EXISTS (SELECT 1 FROM segment s WHERE s.layout = layout.id)",
                id_,
            )
            for id_ in ids
        )
        if deleted:
            self.sql.run("UPDATE cluster SET layouts_forgotten = layouts_forgotten + 1")
            self.forget()


def add_node(sql: Sql, node_id: str, name: str, zone: str) -> NodeRow:
    """Register a node, or note its new name and zone."""
    changed = sql.run("UPDATE node SET name = ?, zone = ? WHERE node_id = ?", name, zone, node_id)
    if not changed:
        sql.run("INSERT INTO node (node_id, name, zone) VALUES (?, ?, ?)", node_id, name, zone)
    found = sql.only("SELECT number FROM node WHERE node_id = ?", node_id)
    return NodeRow(int(found[0]), node_id, name, zone)


def set_wish(sql: Sql, node: int, wish: Wish) -> None:
    """Raises Conflict for a node that was removed, whose number is never used again, and for one
    that is to be removed while a segment names it."""
    known = sql.row("SELECT name, wish FROM node WHERE number = ?", node)
    if known and known[1] == Wish.REMOVED and wish is not Wish.REMOVED:
        raise Conflict(f"{known[0]} was removed for good")
    if known and wish is Wish.REMOVED and _is_named(sql, node):
        raise Conflict(f"segments still have shards on {known[0]}")
    sql.run("UPDATE node SET wish = ? WHERE number = ?", wish.value, node)


def _is_named(sql: Sql, node: int) -> bool:
    """Whether a segment's layout names it. It goes through all layouts."""
    rows = sql.rows(
        "SELECT l.nodes FROM layout l WHERE instr(l.nodes, ?) > 0 "
        "AND EXISTS (SELECT 1 FROM segment s WHERE s.layout = l.id)",
        pack_layout([node]),
    )
    return any(node in unpack_layout(nodes) for (nodes,) in rows)


def commit_content(sql: Sql, layouts: Layouts, session: int, new: NewContent) -> Committed:
    """Make a content visible.

    Raises SessionLost, and SegmentGone if a segment that the upload relied on is gone.
    """
    check_sessions(sql, session, new.written)
    _check_reused(sql, new)
    others = frozenset(
        segment.id
        for segment in new.written
        if not put_segment(sql, layouts, segment, new.unreadable.get(segment.id))
    )
    add_deletes(sql, new.unconfirmed, DeleteReason.LEFTOVER)
    if new.segment_list is not None:
        set_cut(sql, new)
    elif new.start_bytes is not None:
        set_part(sql, new)
    return Committed(pin(sql, new.id), others)


def check_sessions(sql: Sql, session: int, written: Iterable[StoredSegment]) -> None:
    """The one that commits and those that wrote: the sweep spares the shards of live sessions only.
    Raises SessionLost."""
    for number in {session, *(each.generation >> GENERATION_COUNTER_BITS for each in written)}:
        check_session(sql, number)


def pin(sql: Sql, content: ContentId) -> bool:
    """Make a content visible; True if it was not before."""
    pinned = sql.run(
        "INSERT INTO pin (content, account, created_at) VALUES (?, ?, {wall}) "
        "ON CONFLICT DO NOTHING",
        content, DEFAULT_ACCOUNT,
    )  # fmt: skip
    return pinned > 0


def _check_reused(sql: Sql, new: NewContent) -> None:
    """What the upload found there must be there still, the segment list included, and not be known
    to be lost by now, nor be doubted since it looked; its grace period begins again."""
    relied_on = {s.id: s for s in (*new.segments, new.segment_list) if s is not None}
    for segment in new.written:
        relied_on.pop(segment.id, None)
    for segment in relied_on.values():
        if not sql.run(
            "UPDATE segment AS s SET touched_at = {now} WHERE id = ? AND generation = ? "
            f"AND NOT EXISTS ({UNREADABLE}) AND (? OR NOT ({DOUBTFUL}))",
            segment.id, signed(segment.generation), segment.id in new.proven,
        ):  # fmt: skip
            raise SegmentGone("a segment was deleted, lost or doubted during its upload; try again")


def touch_behind(sql: Sql, content: ContentId) -> None:
    """The grace period of all that is there for this content starts again."""
    sql.run(
        f"UPDATE segment SET touched_at = {{now}} WHERE id IN ({SEGMENTS_BEHIND})",
        content, content, content,
    )  # fmt: skip


def touch_segment(sql: Sql, segment: SegmentId) -> None:
    """Someone is about to refer to it: its grace period starts again."""
    sql.run("UPDATE segment SET touched_at = {now} WHERE id = ?", segment)


def put_segment(sql: Sql, layouts: Layouts, segment: StoredSegment, unreadable: int | None) -> bool:
    """Insert a segment. If someone else was first, theirs stands and our shards are deleted,
    unless theirs is known to be lost, or is that of the generation `unreadable`. Whether ours
    stands."""
    if insert_segment(sql, layouts, segment):
        return True
    if layout := layout_now(sql, segment.id, segment.generation):
        return _complete(sql, layouts, segment, layout)
    lost = sql.row(
        f"SELECT 1 FROM segment s WHERE s.id = ? AND (s.generation = ? OR EXISTS ({UNREADABLE}))",
        segment.id, unreadable,
    )  # fmt: skip
    if lost:
        replace_segment(sql, layouts, segment)
        return True
    touch_segment(sql, segment.id)
    add_deletes(sql, shards_of(segment), DeleteReason.LEFTOVER)
    return False


def _complete(sql: Sql, layouts: Layouts, segment: StoredSegment, layout: tuple[int, ...]) -> bool:
    """That very act of writing it is in the database, with this layout: an earlier COMMIT of it,
    whose answer was lost, took effect. Or a rebuild has found it, perhaps before all of its shards
    were there: then it does not know them all, and those that it knew may have been moved since.
    Whether it lies as we wrote it."""
    forbidden = pending_deletes(sql, segment)
    ours = [NO_NODE if place in forbidden else place[1] for place in enumerate(segment.layout)]
    joined = tuple(there or here for there, here in zip(layout, ours, strict=True))
    (checksums,) = sql.only("SELECT checksums FROM segment WHERE id = ?", segment.id)
    if (joined, segment.checksums) != (layout, checksums):
        put_anew(sql, layouts, replace(segment, layout=joined))
    add_deletes(sql, shards_of(segment), DeleteReason.LEFTOVER)
    return joined == segment.layout


def put_anew(sql: Sql, layouts: Layouts, segment: StoredSegment) -> None:
    """In the place of the row that there is, of which nothing is to be deleted."""
    sql.run("DELETE FROM repair_queue WHERE segment = ?", segment.id)
    sql.run("DELETE FROM segment WHERE id = ?", segment.id)
    insert_segment(sql, layouts, segment)


def replace_segment(sql: Sql, layouts: Layouts, segment: StoredSegment) -> None:
    """Whoever still has the bytes heals all contents that need them."""
    found = sql.only(
        "SELECT s.generation, l.nodes FROM segment s JOIN layout l ON l.id = s.layout "
        "WHERE s.id = ?",
        segment.id,
    )
    old = replace(segment, generation=found[0], layout=unpack_layout(found[1]))
    add_deletes(sql, shards_of(old), DeleteReason.DOOMED)
    put_anew(sql, layouts, segment)


def insert_segment(sql: Sql, layouts: Layouts, segment: StoredSegment) -> bool:
    """False if there is one of that id. One that is short of shards goes to the repair queue."""
    inserted = sql.run(
        "INSERT INTO segment (id, size_bytes, stored_bytes, encoding, k, n, generation, layout, "
        "checksums, touched_at) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, {now}) ON CONFLICT DO NOTHING",
        segment.id, segment.size_bytes, segment.size_bytes, int(segment.encoding), segment.k,
        segment.n, signed(segment.generation), layouts.intern(segment.layout), segment.checksums,
    )  # fmt: skip
    if inserted and NO_NODE in segment.layout:
        queue_repair(sql, RepairNotice(segment.id, segment.generation, "short of shards"))
    return inserted > 0


def shards_of(segment: StoredSegment) -> list[ShardsOnNode]:
    """Every shard of a segment, by node."""
    by_node: dict[int, list[ShardAddress]] = {}
    for index, node in enumerate(segment.layout):
        if node != NO_NODE:
            by_node.setdefault(node, []).append(segment.address(index))
    return [ShardsOnNode(node, tuple(addresses)) for node, addresses in by_node.items()]


def add_deletes(sql: Sql, deletes: Iterable[ShardsOnNode], why: DeleteReason) -> None:
    """Leftovers are what was written in vain, as far as anybody knew who wrote it: those that a
    layout names by now, since a rebuild has found them on their nodes, are none."""
    for shards in deletes:
        segment, generation, _ = shards.addresses[0]
        indexes = [address.index for address in shards.addresses]
        if why is DeleteReason.LEFTOVER:
            layout = layout_now(sql, segment, generation)
            indexes = [i for i in indexes if layout[i : i + 1] != (shards.node,)]
        if indexes:
            sql.run(
                "INSERT INTO outbox_delete (node, not_before, segment, generation, indexes, why) "
                "VALUES (?, {now}, ?, ?, ?, ?)",
                shards.node, segment, signed(generation), bytes(indexes), int(why),
            )  # fmt: skip


def layout_now(sql: Sql, segment: SegmentId, generation: int) -> tuple[int, ...]:
    """Of this very write of the segment; empty if it is gone."""
    row = sql.row(
        "SELECT l.nodes FROM segment s JOIN layout l ON l.id = s.layout "
        "WHERE s.id = ? AND s.generation = ?",
        segment, signed(generation),
    )  # fmt: skip
    return unpack_layout(row[0]) if row else ()

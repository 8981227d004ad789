"""What the sweep asks of the database: does anything refer to the shards that a node has listed,
and does the node have all that the layouts say? The rules for transactions are those of `writes`.

A shard is referred to by the layout of its segment's row, if the generation is the same, and by the
outbox, which deletes it soon. A shard of a live session may be referred to in a moment. And while a
segment waits for repair, any shard of it is kept, wherever it lies: repair may come to look for it.
"""

from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Protocol, TypeVar

from common.ids import SegmentId, ShardAddress
from coordinator.metadata.notices import queue_repair
from coordinator.metadata.packing import signed, unpack_layout
from coordinator.metadata.rows import (
    GENERATION_COUNTER_BITS,
    DeleteReason,
    Places,
    RepairNotice,
    ShardsOnNode,
)
from coordinator.metadata.sessions import (
    deletes_stopped,
    doubt,
    epoch,
    live_sessions,
    name_of,
    stop_deletes,
)
from coordinator.metadata.sql import Sql
from coordinator.metadata.writes import add_deletes

T = TypeVar("T")

# More orphans on a node than both of these look like a fault of ours: an operator must look.
FEW_ORPHANS = 100
ORPHANS_PERCENT = 1

_LAST_KEY = ShardAddress(SegmentId(b"\xff" * 32), (1 << 64) - 1, 255).key
_NO_SEGMENT = b""  # sorts before all


@dataclass(frozen=True, slots=True)
class Listing:
    """A stretch of a node's shards: all that it has above `after` and up to `end`; None stands for
    the beginning and the end of all."""

    node: int
    after: ShardAddress | None
    end: ShardAddress | None
    addresses: Sequence[ShardAddress]


@dataclass(frozen=True, slots=True)
class Judgement:
    """Of a stretch. `orphans` are the shards that nothing refers to; `news` says that this is not
    what is noted already."""

    orphans: Sequence[ShardAddress]
    news: bool


@dataclass(frozen=True, slots=True)
class Expected:
    """The shards that should be on a node, of all segments up to `until`: None for all there are
    in the stretch that was asked for."""

    shards: Sequence[ShardAddress]
    until: SegmentId | None


def expected(
    sql: Sql, node: int, after: ShardAddress | None, end: ShardAddress | None, limit: int
) -> Expected:
    """Of the segments above `after`'s, up to `end`'s. It reads every segment in between, also those
    that lie elsewhere, until `limit` of them lie here."""
    rows = sql.rows(
        "SELECT s.id, s.generation, l.nodes FROM segment s JOIN layout l ON l.id = s.layout "
        "WHERE s.id > ? AND s.id <= ? AND instr(l.nodes, ?) > 0 ORDER BY s.id LIMIT ?",
        after.segment if after else _NO_SEGMENT, end.segment if end else _LAST_KEY[:32],
        node.to_bytes(2, "big"), limit,
    )  # fmt: skip
    return Expected(_on(node, rows), SegmentId(rows[-1][0]) if len(rows) == limit else None)


def judge(sql: Sql, listing: Listing) -> Judgement:
    orphans = unreferenced(sql, listing.node, listing.addresses)
    return Judgement(orphans, set(orphans) != set(_noted(sql, listing)))


def unreferenced(sql: Sql, node: int, addresses: Sequence[ShardAddress]) -> list[ShardAddress]:
    """Of what lies on a node, the shards that nothing refers to, nor may come to."""
    if not addresses:
        return []
    live, segments = live_sessions(sql), {address.segment for address in addresses}
    referenced, needy = _referenced(sql, node, segments), _in_repair(sql, segments)
    return [
        address
        for address in addresses
        if address.generation >> GENERATION_COUNTER_BITS not in live
        and address not in referenced
        and (address.segment, address.generation) not in needy
    ]


def _referenced(sql: Sql, node: int, segments: set[SegmentId]) -> set[ShardAddress]:
    """Of these segments, the shards on this node that a layout or the outbox names."""
    doomed = sql.rows_in(
        "SELECT segment, generation, indexes FROM outbox_delete "
        f"WHERE node = {int(node)} AND segment IN ({{keys}})",
        segments,
    )
    return set(_placed(sql, node, segments)) | {
        ShardAddress(SegmentId(id_), generation, index)
        for id_, generation, indexes in doomed
        for index in indexes
    }


def _in_repair(sql: Sql, segments: set[SegmentId]) -> set[tuple[SegmentId, int]]:
    """Of these segments, the writes that wait for repair."""
    rows = sql.rows_in(
        "SELECT segment, generation FROM repair_queue WHERE segment IN ({keys})", segments
    )
    return {(SegmentId(id_), generation) for id_, generation in rows}


def _placed(sql: Sql, node: int, segments: set[SegmentId]) -> list[ShardAddress]:
    """Of these segments, the shards that a layout names on this node."""
    rows = sql.rows_in(
        "SELECT s.id, s.generation, l.nodes FROM segment s JOIN layout l ON l.id = s.layout "
        "WHERE s.id IN ({keys})",
        segments,
    )
    return _on(node, rows)


def _on(node: int, rows: Iterable[tuple[bytes, int, bytes]]) -> list[ShardAddress]:
    """The shards on this node, of segments given as id, generation and nodes."""
    return [
        ShardAddress(SegmentId(id_), generation, index)
        for id_, generation, nodes in rows
        for index, holder in enumerate(unpack_layout(nodes))
        if holder == node
    ]


def _noted(sql: Sql, listing: Listing) -> list[ShardAddress]:
    rows = sql.rows(
        "SELECT key FROM orphan WHERE node = ? AND key > ? AND key <= ?",
        listing.node, *_range(listing),
    )  # fmt: skip
    return [ShardAddress.from_key(key) for (key,) in rows]


def _range(listing: Listing) -> tuple[bytes, bytes]:
    return (
        listing.after.key if listing.after else b"",
        listing.end.key if listing.end else _LAST_KEY,
    )


def note_orphans(sql: Sql, listing: Listing) -> int:
    """Remember since when nothing refers to which shards, and forget those that are not there any
    more or are referred to. How many are noted in this stretch.

    A session above the epoch means that nodes know a younger database: deletes are stopped.
    """
    orphans = unreferenced(sql, listing.node, listing.addresses)
    highest = epoch(sql)
    for address in orphans:
        if address.generation >> GENERATION_COUNTER_BITS > highest:
            doubt(sql, highest)
            stop_deletes(
                sql,
                f"{name_of(sql, listing.node)} holds {address}, of a session above the epoch "
                f"{highest}: the database is older than the nodes, as after restoring a backup",
            )
            return 0
    for address in set(_noted(sql, listing)) - set(orphans):
        _forget(sql, listing.node, address)
    for address in orphans:
        sql.run(
            "INSERT INTO orphan (node, key, seen_at) VALUES (?, ?, {now}) ON CONFLICT DO NOTHING",
            listing.node, address.key,
        )  # fmt: skip
    return len(orphans)


def _forget(sql: Sql, node: int, address: ShardAddress) -> None:
    sql.run("DELETE FROM orphan WHERE node = ? AND key = ?", node, address.key)


def look_at_share(sql: Sql, node: int, listed: int) -> int:
    """How many orphans are noted of a node that was listed as a whole just now, but for those that
    an operator has accepted by allowing deletes again. Deletes are stopped if they are too large a
    share of the `listed` shards."""
    found = sql.only(
        "SELECT count(*) FROM orphan WHERE node = ? "
        "AND seen_at > (SELECT deletes_allowed_at FROM cluster)",
        node,
    )
    count = int(found[0])
    if count > FEW_ORPHANS and count * 100 > listed * ORPHANS_PERCENT:
        stop_deletes(
            sql,
            f"nothing refers to {count} of the {listed} shards of {name_of(sql, node)}: more than "
            f"{ORPHANS_PERCENT} %",
        )
    return count


def condemn(sql: Sql, node: int, grace_s: int, limit: int) -> int:
    """Put orphans that have been noted for the grace period into the outbox, to be quarantined: how
    many. They are looked at again; and from now on no one may put such a shard there."""
    if deletes_stopped(sql):
        return 0
    rows = sql.rows(
        "SELECT key FROM orphan WHERE node = ? AND seen_at <= {now} - ? ORDER BY key LIMIT ?",
        node, grace_s, limit,
    )  # fmt: skip
    old = [ShardAddress.from_key(key) for (key,) in rows]
    for address in old:
        _forget(sql, node, address)
    by_write: defaultdict[tuple[SegmentId, int], list[ShardAddress]] = defaultdict(list)
    for address in unreferenced(sql, node, old):
        by_write[address.segment, address.generation].append(address)
    shards = [ShardsOnNode(node, tuple(addresses)) for addresses in by_write.values()]
    add_deletes(sql, shards, DeleteReason.ORPHAN)
    _note_set_aside(sql, shards)
    return len(old)


def _note_set_aside(sql: Sql, condemned: Iterable[ShardsOnNode]) -> None:
    """A rebuild takes back what this database may not have known, until one has found all nodes."""
    (until,) = sql.only(
        "SELECT CASE WHEN doubted_epoch > rebuilt_epoch THEN doubted_epoch ELSE 0 END FROM cluster"
    )
    for shards in condemned:
        segment, generation, _ = shards.addresses[0]
        if generation >> GENERATION_COUNTER_BITS <= until:
            sql.run(
                "INSERT INTO set_aside (node, segment, generation, indexes) VALUES (?, ?, ?, ?)",
                shards.node, segment, signed(generation),
                bytes(address.index for address in shards.addresses),
            )  # fmt: skip


def set_aside(sql: Sql, node: int) -> list[ShardAddress]:
    """What this database has condemned on a node before a rebuild has found all nodes."""
    rows = sql.rows("SELECT segment, generation, indexes FROM set_aside WHERE node = ?", node)
    return [
        ShardAddress(SegmentId(segment), generation, index)
        for segment, generation, indexes in rows
        for index in indexes
    ]


def named(sql: Sql, node: int, addresses: Sequence[ShardAddress]) -> list[ShardAddress]:
    """Those that a layout names on this node."""
    found = set(_placed(sql, node, {address.segment for address in addresses}))
    return [address for address in addresses if address in found]


def note_missing(sql: Sql, node: int, missing: Sequence[ShardAddress]) -> int:
    """Tell repair of shards that a node was asked for and does not have, as far as the layout still
    names them: of how many segments."""
    by_write: defaultdict[tuple[SegmentId, int], set[tuple[int, int]]] = defaultdict(set)
    for address in missing:
        by_write[address.segment, address.generation].add((address.index, node))
    reason = f"missing on {name_of(sql, node)}"
    return sum(
        queue_repair(sql, RepairNotice(*write, reason, Places(places)))
        for write, places in by_write.items()
    )


class _Run(Protocol):
    def __call__(self, step: Callable[[Sql], T], /) -> Awaitable[T]: ...


class Sweeping:
    """The same, asynchronous: `read` and `write` run a function in the database's threads."""

    def __init__(self, read: _Run, write: _Run, grace_s: int) -> None:
        self._read, self._write, self._grace_s = read, write, grace_s

    async def expected(
        self, node: int, after: ShardAddress | None, end: ShardAddress | None, limit: int
    ) -> Expected:
        query = partial(expected, node=node, after=after, end=end, limit=limit)
        return await self._read(query)

    async def judge(self, listing: Listing) -> Judgement:
        return await self._read(partial(judge, listing=listing))

    async def note_orphans(self, listing: Listing) -> int:
        return await self._write(partial(note_orphans, listing=listing))

    async def look_at_share(self, node: int, listed: int) -> int:
        return await self._write(partial(look_at_share, node=node, listed=listed))

    async def condemn(self, node: int, limit: int) -> int:
        return await self._write(partial(condemn, node=node, grace_s=self._grace_s, limit=limit))

    async def set_aside(self, node: int) -> list[ShardAddress]:
        return await self._read(partial(set_aside, node=node))

    async def named(self, node: int, addresses: Sequence[ShardAddress]) -> list[ShardAddress]:
        return await self._read(partial(named, node=node, addresses=addresses))

    async def note_missing(self, node: int, missing: Sequence[ShardAddress]) -> int:
        return await self._write(partial(note_missing, node=node, missing=missing))

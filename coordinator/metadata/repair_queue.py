"""The repair queue: what is wrong with which segment, and when to try (again). The rules for
transactions are those of `writes`."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from common.ids import ShardAddress
from coordinator.metadata import reads
from coordinator.metadata.database import Sql
from coordinator.metadata.notices import queue_repair, survivors_of
from coordinator.metadata.packing import signed, unpack_layout
from coordinator.metadata.rows import Places, RepairNotice, Seen, StoredSegment


@dataclass(frozen=True, slots=True)
class Repair:
    """A row of the repair queue that is due, with its segment as it is now."""

    stored: StoredSegment
    survivors: int
    reason: str
    attempts: int


@dataclass(frozen=True, slots=True)
class Backlog:
    """The repair queue in figures. `hopeless` segments have fewer than k good shards; `is_due` says
    whether anything can be done now."""

    queued: int
    hopeless: int
    is_due: bool


def due_repairs(sql: Sql, limit: int) -> list[Repair]:
    """Fewest survivors first, then oldest."""
    rows = sql.rows(
        f"SELECT {reads.SEGMENT_COLUMNS}, r.survivors, r.reason, r.attempts FROM repair_queue r "
        "JOIN segment s ON s.id = r.segment AND s.generation = r.generation "
        "JOIN layout l ON l.id = s.layout WHERE r.not_before <= {now} "
        "ORDER BY r.survivors, r.queued_at LIMIT ?",
        limit,
    )
    return [Repair(reads.segment_of(row[:-3]), *row[-3:]) for row in rows]


def backlog(sql: Sql, k: int) -> Backlog:
    """Counts in indexes only: the queue may be long."""
    counts = sql.row(
        "SELECT (SELECT count(*) FROM repair_queue), "
        "(SELECT count(*) FROM repair_queue WHERE survivors < ?), "
        "EXISTS (SELECT 1 FROM repair_queue WHERE not_before <= {now})",
        k,
    )
    assert counts is not None
    return Backlog(counts[0], counts[1], bool(counts[2]))


def postpone(sql: Sql, stored: StoredSegment, seen: Seen | None, reason: str, delay_s: int) -> None:
    """Nothing more can be done for it now. What was found when all its shards were looked at holds
    from now on, but for what was found to be bad since `stored` was read; None: nothing was."""
    key = (stored.id, signed(stored.generation))
    found = sql.row(
        "SELECT l.nodes, r.bad, r.survivors FROM repair_queue r JOIN segment s ON s.id = r.segment "
        "JOIN layout l ON l.id = s.layout WHERE r.segment = ? AND r.generation = ?",
        *key,
    )
    if found is None:
        return
    layout, bad, survivors = unpack_layout(found[0]), found[1], found[2]
    if seen is not None:
        bad = bad & ~(stored.known_bad & seen.good) | seen.bad
        survivors = survivors_of(layout, bad | seen.gone)
    sql.run(
        "UPDATE repair_queue SET survivors = ?, bad = ?, reason = ?, not_before = {now} + ?, "
        "attempts = attempts + 1 WHERE segment = ? AND generation = ?",
        survivors, bad, reason, delay_s, *key,
    )  # fmt: skip


def try_again_now(sql: Sql, limit: int) -> None:
    """What waits for its next turn is due, fewest survivors first: a node may have come back."""
    sql.run(
        "UPDATE repair_queue SET not_before = 0 WHERE segment IN (SELECT segment FROM repair_queue "
        "WHERE not_before > {now} ORDER BY survivors LIMIT ?)",
        limit,
    )


def queue_layouts(sql: Sql, found: Iterable[tuple[int, int, str]]) -> None:
    """All segments of these layouts go into the queue: (layout id, mask of the shards that are on
    no node, reason) each."""
    for layout, gone, reason in found:
        sql.run(
            "INSERT INTO repair_queue (segment, generation, survivors, reason, queued_at) "
            "SELECT id, generation, n - sixfold_bits(?), ?, {now} FROM segment WHERE layout = ? "
            "ON CONFLICT (segment) DO UPDATE SET not_before = 0, "
            "survivors = excluded.survivors - sixfold_bits(bad & ~?)",
            gone, reason, layout, gone,
        )  # fmt: skip


def queue_rotten(sql: Sql, node: int, rotten: Sequence[ShardAddress]) -> list[ShardAddress]:
    """The node has found these shards to be rotten: their segments go into the queue. Which of them
    no segment needs."""
    needless = []
    for address in rotten:
        row = sql.row(
            "SELECT l.nodes FROM segment s JOIN layout l ON l.id = s.layout "
            "WHERE s.id = ? AND s.generation = ?",
            address.segment, signed(address.generation),
        )  # fmt: skip
        layout = unpack_layout(row[0]) if row else ()
        if layout[address.index : address.index + 1] != (node,):
            needless.append(address)
            continue
        bad, reason = Places({(address.index, node)}), f"shard {address.index} is rotten"
        queue_repair(sql, RepairNotice(address.segment, address.generation, reason, bad))
    return needless

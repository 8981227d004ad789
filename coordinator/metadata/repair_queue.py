"""The repair queue: what is wrong with which segment, and when to try (again). The rules for
transactions are those of `writes`."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import chain, zip_longest

from common.ids import ShardAddress
from coordinator.metadata import reads
from coordinator.metadata.notices import queue_repair, survivors_of
from coordinator.metadata.packing import signed, unpack_layout
from coordinator.metadata.rows import Places, RepairNotice, Seen, StoredSegment
from coordinator.metadata.sql import Sql
from coordinator.metadata.sweeping import unreferenced


@dataclass(frozen=True, slots=True)
class Repair:
    """A row of the repair queue that is due, with its segment as it is now. `due_at_s` is 0 if it
    was not tried since it was queued."""

    stored: StoredSegment
    survivors: int
    reason: str
    attempts: int
    due_at_s: int


@dataclass(frozen=True, slots=True)
class Backlog:
    """The repair queue in figures. `hopeless` segments have fewer than k good shards; of the
    others, `waiting` were tried in vain and are not due yet, the next because of `waits_for`."""

    queued: int
    hopeless: int
    waiting: int
    waits_for: str

    @property
    def due(self) -> int:
        """How many could be mended now."""
        return self.queued - self.hopeless - self.waiting


def due_repairs(sql: Sql, survivors: Iterable[int], limit: int) -> list[Repair]:
    """Of the segments with so many survivors. Those that were not tried yet, fewest survivors
    first, and those that were tried in vain, longest due first, come in turns: neither hold up the
    other."""
    due = [repair for count in survivors for repair in _due(sql, count, limit)]
    fresh = [repair for repair in due if not repair.due_at_s]
    again = sorted((repair for repair in due if repair.due_at_s), key=lambda each: each.due_at_s)
    in_turns = chain.from_iterable(zip_longest(fresh, again))
    return [repair for repair in in_turns if repair is not None][:limit]


def _due(sql: Sql, survivors: int, limit: int) -> list[Repair]:
    """Those with exactly so many, longest due first: the first in an index. Whatever asks for more
    at once reads all that are not due."""
    rows = sql.rows(
        f"SELECT {reads.SEGMENT_COLUMNS}, r.survivors, r.reason, r.attempts, r.not_before "
        "FROM repair_queue r JOIN segment s ON s.id = r.segment AND s.generation = r.generation "
        "JOIN layout l ON l.id = s.layout WHERE r.survivors = ? AND r.not_before <= {now} "
        "ORDER BY r.not_before, r.queued_at LIMIT ?",
        survivors, limit,
    )  # fmt: skip
    return [Repair(reads.segment_of(row[:-4]), *row[-4:]) for row in rows]


def backlog(sql: Sql, k: int, n: int) -> Backlog:
    """Counts in indexes only: the queue may be long."""
    counts = sql.only(
        "SELECT (SELECT count(*) FROM repair_queue), "
        "(SELECT count(*) FROM repair_queue WHERE survivors < ?)",
        k,
    )
    waiting, waits_for = 0, ""
    for survivors in range(k, n + 1):
        found = sql.only(
            "SELECT count(*), (SELECT reason FROM repair_queue WHERE survivors = ? "
            "AND not_before > {now} ORDER BY not_before LIMIT 1) "
            "FROM repair_queue WHERE survivors = ? AND not_before > {now}",
            survivors, survivors,
        )  # fmt: skip
        waiting, waits_for = waiting + found[0], waits_for or found[1] or ""
    return Backlog(counts[0], counts[1], waiting, waits_for)


def postpone(sql: Sql, stored: StoredSegment, seen: Seen | None, reason: str, delay_s: int) -> None:
    """Nothing more can be done for it now. What was found when all its shards were looked at holds
    from now on, but for what was found to be bad since `stored` was read; None: nothing was. It
    says nothing of shards that do not lie any more as `stored` says."""
    key = (stored.id, signed(stored.generation))
    found = sql.row(
        "SELECT l.nodes, r.bad, r.survivors FROM repair_queue r JOIN segment s ON s.id = r.segment "
        "JOIN layout l ON l.id = s.layout WHERE r.segment = ? AND r.generation = ?",
        *key,
    )
    if found is None:
        return
    layout, bad, survivors = unpack_layout(found[0]), found[1], found[2]
    if seen is not None and layout == stored.layout:
        bad = bad & ~(stored.known_bad & seen.good) | seen.bad
        survivors = survivors_of(layout, bad | seen.gone)
    sql.run(
        "UPDATE repair_queue SET survivors = ?, bad = ?, reason = ?, not_before = {now} + ?, "
        "attempts = attempts + 1 WHERE segment = ? AND generation = ?",
        survivors, bad, reason, delay_s, *key,
    )  # fmt: skip


def try_again_now(sql: Sql, k: int, limit: int) -> None:
    """What waits for its next turn is due, fewest survivors first, but what is hopeless last: a
    node may have come back."""
    for which in ("survivors >= ?", "survivors < ?"):
        limit -= sql.run(
            "UPDATE repair_queue SET not_before = {now} WHERE segment IN "
            f"(SELECT segment FROM repair_queue WHERE {which} AND not_before > {{now}} "
            "ORDER BY survivors LIMIT ?)",
            k, limit,
        )  # fmt: skip


# What a row has if its layout lacks the shards of a mask.
_LEFT = "excluded.survivors - sixfold_bits(bad & ~?)"


def queue_layouts(sql: Sql, found: Iterable[tuple[int, int, str]]) -> None:
    """All segments of these layouts go into the queue: (layout id, mask of the shards that are on
    no node, reason) each. What has come to have more or fewer survivors is as if it was new."""
    for layout, gone, reason in found:
        sql.run(
            "INSERT INTO repair_queue (segment, generation, survivors, reason, queued_at) "
            "SELECT id, generation, n - sixfold_bits(?), ?, {now} FROM segment WHERE layout = ? "
            f"ON CONFLICT (segment) DO UPDATE SET survivors = {_LEFT}, "
            f"not_before = CASE survivors WHEN {_LEFT} THEN min(not_before, {{now}}) ELSE 0 END",
            gone, reason, layout, gone, gone,
        )  # fmt: skip


def queue_rotten(sql: Sql, node: int, rotten: Sequence[ShardAddress]) -> list[ShardAddress]:
    """The node has found these shards to be rotten: the segments whose layouts name them there go
    into the queue. Which of them nothing will come to need. The rest may be named in a moment, as
    those of an upload that is not over: the node goes on telling of them."""
    for address in rotten:
        bad, reason = Places({(address.index, node)}), f"shard {address.index} is rotten"
        queue_repair(sql, RepairNotice(address.segment, address.generation, reason, bad))
    return unreferenced(sql, node, rotten)

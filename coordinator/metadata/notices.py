"""What is found to be wrong with a segment goes into the repair queue. The rules for transactions
are those of `writes`.

A row of the queue holds, as a mask, the shards that are known to be bad where they should be: gone
or rotten. Whatever promises something of the segment leaves them out. A notice adds to the mask and
never takes from it; that do only a look at all shards, and what is written in their place.
"""

from coordinator.metadata.packing import mask_of, signed, unpack_layout
from coordinator.metadata.rows import NO_NODE, Places, RepairNotice
from coordinator.metadata.sql import Sql

# Of a segment s its row of the queue r, if it is in it.
LEFT_JOIN_QUEUE = "LEFT JOIN repair_queue r ON r.segment = s.id AND r.generation = s.generation "


def queue_repair(sql: Sql, notice: RepairNotice) -> bool:
    """Whether that is news. A read may bring it long after: nothing happens if the segment was
    collected or written anew since, or if its shards lie elsewhere by now."""
    key = (notice.segment, signed(notice.generation))
    found = sql.row(
        "SELECT l.nodes, r.bad, r.survivors FROM segment s JOIN layout l ON l.id = s.layout "
        f"{LEFT_JOIN_QUEUE}WHERE s.id = ? AND s.generation = ?",
        *key,
    )
    if found is None:
        return False
    layout, known, fewest = unpack_layout(found[0]), found[1], found[2]
    bad, gone = _still_there(notice.bad, layout), _still_there(notice.gone, layout)
    if (notice.bad or notice.gone) and not bad | gone:
        return False
    bad |= known or 0
    survivors = survivors_of(layout, bad | gone)
    if known is not None:
        survivors = min(survivors, fewest)
        if (bad, survivors) == (known, fewest):
            return False
    sql.run(
        "INSERT INTO repair_queue (segment, generation, survivors, bad, reason, queued_at) "
        "VALUES (?, ?, ?, ?, ?, {now}) ON CONFLICT (segment) DO UPDATE SET "
        "generation = excluded.generation, survivors = excluded.survivors, bad = excluded.bad, "
        "reason = excluded.reason, not_before = 0",
        *key, survivors, bad, notice.reason,
    )  # fmt: skip
    return True


def _still_there(places: Places, layout: tuple[int, ...]) -> int:
    """The mask of the shards that the layout has in these places."""
    return mask_of(index for index, node in places if layout[index : index + 1] == (node,))


def survivors_of(layout: tuple[int, ...], lacking: int = 0) -> int:
    """How many shards the layout names, without those of the mask."""
    absent = mask_of(index for index, node in enumerate(layout) if node == NO_NODE)
    return len(layout) - (absent | lacking).bit_count()

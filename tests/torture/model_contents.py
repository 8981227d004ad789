"""The contents that histories of the store are about, and what of them must lie where."""

import random
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

from common.hashing import blake3_digest
from common.ids import ContentId, SegmentId, ShardAddress
from common.segment_list import SegmentList
from coordinator.metadata import StoredSegment
from coordinator.metadata.packing import unpack_layout
from coordinator.metadata.rows import NO_NODE
from tests.torture.one_process import SEGMENT_BYTES


class Promise(NamedTuple):
    """Of an answer to a PUT: after how many faults it came, and how many nodes may fail then."""

    after: int
    survives: int


def _contents() -> list[bytes]:
    """Few, so that they meet again; some share segments, one is the segment list of another."""
    chance = random.Random("contents")
    sizes = (0, 1, 5, 6, 7, 1000, 20_000, SEGMENT_BYTES - 1, SEGMENT_BYTES, SEGMENT_BYTES + 1)
    plain = [chance.randbytes(size) for size in sizes]
    a, b = chance.randbytes(SEGMENT_BYTES), chance.randbytes(SEGMENT_BYTES)
    whole = a + b + a + b"end"
    return [*plain, a, a + b, b + a + b"end", whole, _segment_list(whole)]


def _pieces(data: bytes) -> Iterator[bytes]:
    yield data[:SEGMENT_BYTES]
    for start in range(SEGMENT_BYTES, len(data), SEGMENT_BYTES):
        yield data[start : start + SEGMENT_BYTES]


def _segment_list(data: bytes) -> bytes:
    entries = tuple((SegmentId(blake3_digest(piece)), len(piece)) for piece in _pieces(data))
    return SegmentList(ContentId(blake3_digest(data)), len(data), entries).pack()


CONTENTS = _contents()
IDS = [ContentId(blake3_digest(data)) for data in CONTENTS]


def lists_in(database: Path) -> set[bytes]:
    """The ids of the segment lists of all contents that are cut into several segments."""
    with closing(sqlite3.connect(database)) as connection:
        rows = connection.execute(
            "SELECT segment_list FROM content "
            "WHERE segment_list IS NOT NULL AND id IN (SELECT content FROM pin)"
        )
        return {bytes(id_) for (id_,) in rows}


def segments_in(database: Path) -> set[bytes]:
    """The ids of all segments of visible contents, without lists."""
    with closing(sqlite3.connect(database)) as connection:
        rows = connection.execute(
            "SELECT DISTINCT coalesce(cs.segment, p.content) FROM pin p "
            "LEFT JOIN content_segment cs ON cs.content = p.content"
        )
        return {bytes(id_) for (id_,) in rows}


def pinned_in(database: Path) -> set[bytes]:
    """The ids of all contents that are visible."""
    with closing(sqlite3.connect(database)) as connection:
        return {bytes(id_) for (id_,) in connection.execute("SELECT content FROM pin")}


def known_bad(database: Path, segment: StoredSegment) -> int:
    """The shards that the database knows to be bad, as a mask."""
    with closing(sqlite3.connect(database)) as connection:
        found = connection.execute(
            "SELECT bad FROM repair_queue WHERE segment = ? AND generation = ?",
            (bytes(segment.id), segment.generation),
        ).fetchone()
        return int(found[0]) if found else 0


def waiting_deletes(database: Path) -> int:
    """How much is known of that is to go, but has not gone yet."""
    queues = ("collect_queue", "outbox_delete", "orphan", "rebundle_queue")
    with closing(sqlite3.connect(database)) as connection:
        counts = (connection.execute(f"SELECT count(*) FROM {name}") for name in queues)
        return sum(int(count.fetchone()[0]) for count in counts)


def shards_in(database: Path) -> set[tuple[int, ShardAddress]]:
    """All that the metadata refers to: which shard, on which node."""
    with closing(sqlite3.connect(database)) as connection:
        rows = connection.execute(
            "SELECT s.id, s.generation, l.nodes FROM segment s JOIN layout l ON l.id = s.layout"
        ).fetchall()
    return {
        (node, ShardAddress(SegmentId(id_), generation, index))
        for id_, generation, layout in rows
        for index, node in enumerate(unpack_layout(layout))
        if node != NO_NODE
    }

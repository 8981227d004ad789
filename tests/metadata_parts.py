"""What tests of the metadata database are made of."""

import asyncio
import os
from dataclasses import replace

from common.ids import ContentId, SegmentId
from common.shards import Encoding
from coordinator.metadata import (
    OUTBOX,
    DueDeletes,
    Metadata,
    NewContent,
    OutboxRow,
    RepairNotice,
    StoredSegment,
)
from coordinator.metadata.sessions import epoch, next_epoch
from coordinator.metadata.sql import Sql

GRACE_S = 3600
NINE = tuple(range(1, 10))


class Clock:
    """Seconds, moved by the test. The database's clock begins with them."""

    def __init__(self, now_s: float = 1_700_000_000.0) -> None:
        self.now_s, self.boot = now_s, "a boot"

    def __call__(self) -> float:
        return self.now_s

    def wall(self) -> float:
        return self.now_s


def segment(metadata: Metadata, layout: tuple[int, ...] = NINE) -> StoredSegment:
    generation = metadata.new_generation()
    id_, checksums = SegmentId(os.urandom(32)), os.urandom(288)
    return StoredSegment(id_, 4096, Encoding.PLAIN, 6, 9, generation, layout, checksums)


def notice(stored: StoredSegment, *bad: int) -> RepairNotice:
    """These shards were found to be bad where they lie."""
    reason = f"{len(bad)} are bad"
    return RepairNotice(stored.id, stored.generation, reason, stored.places(bad))


def single(stored: StoredSegment) -> NewContent:
    return NewContent(ContentId(stored.id), stored.size_bytes, [stored], None, [stored])


async def filled(metadata: Metadata, count: int = 300) -> list[StoredSegment]:
    """So many contents of one segment each."""
    stored = [segment(metadata) for _ in range(count)]
    await asyncio.gather(*(metadata.commit_content(single(one)) for one in stored))
    return stored


def several(metadata: Metadata, segments: list[StoredSegment]) -> NewContent:
    listed = replace(segment(metadata), encoding=Encoding.SEGMENT_LIST)
    size = sum(s.size_bytes for s in segments)
    distinct = {s.id: s for s in [*segments, listed]}
    return NewContent(ContentId(os.urandom(32)), size, segments, listed, list(distinct.values()))


async def execute(metadata: Metadata, text: str, *values: object) -> None:
    """A statement behind the back of all that guards the database."""
    await metadata._write(lambda sql: sql.run(text, *values))


async def seize_lease(metadata: Metadata, job: str = OUTBOX) -> None:
    """As if the lease had run out and this process had been the first to see it."""
    session = metadata.session

    def seize(sql: Sql) -> None:
        if sql.row("SELECT session FROM job_lease WHERE name = ?", job) != (session,):
            sql.run(
                "REPLACE INTO job_lease (name, session, epoch, expires_at) "
                "VALUES (?, ?, ?, {now} + 15)",
                job, session, next_epoch(sql),
            )  # fmt: skip

    await metadata._write(seize)


async def due_deletes(metadata: Metadata, limit: int = 100) -> list[OutboxRow]:
    """Of all nodes, `limit` of each at most, also of nodes that never registered."""
    await seize_lease(metadata)
    due = [await metadata.due_deletes(node, limit) for node in range(1, 20)]
    return [row for of_node in due for row in of_node.rows]


async def finish_deletes(metadata: Metadata, rows: list[OutboxRow]) -> None:
    """They have just been done."""
    await seize_lease(metadata)
    assert await metadata.finish_deletes(DueDeletes(await metadata._read(epoch), rows))

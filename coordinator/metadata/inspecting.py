"""What operators ask of the database: sums over many rows, in bounded steps."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple, TypeVar

from common.ids import ContentId
from coordinator.metadata import jobs, reads, sessions
from coordinator.metadata.explaining import Explained, explained
from coordinator.metadata.hopeless import HopelessPage, hopeless
from coordinator.metadata.packing import unpack_layout
from coordinator.metadata.rows import COLLECT, OUTBOX, JobState, NodeRow, StoredSegment, Wish
from coordinator.metadata.sql import Sql
from coordinator.metadata.verifying import moved, segments_after, set_verified

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class LayoutUse:
    """A layout and how many segments have it."""

    id: int
    layout: tuple[int, ...]
    segments: int


def layout_uses(sql: Sql, after: int, limit: int) -> list[LayoutUse]:
    """Of `limit` layouts at most, in order of their ids, from behind `after` on. It counts in an
    index and looks at no segment."""
    rows = sql.rows(
        "SELECT l.id, l.nodes, (SELECT count(*) FROM segment s WHERE s.layout = l.id) "
        "FROM layout l WHERE l.id > ? ORDER BY l.id LIMIT ?",
        after, limit,
    )  # fmt: skip
    return [LayoutUse(id_, unpack_layout(nodes), count) for id_, nodes, count in rows]


class KnownBad(NamedTuple):
    """A segment, the id of its layout, and the mask of its shards that are known to be bad."""

    segment: bytes
    layout: int
    bad: int


def known_bad(sql: Sql, after: bytes, limit: int) -> list[KnownBad]:
    """Of the segments that have such, in order of their ids, from behind `after` on."""
    rows = sql.rows(
        "SELECT r.segment, s.layout, r.bad FROM repair_queue r "
        "JOIN segment s ON s.id = r.segment AND s.generation = r.generation "
        "WHERE r.bad <> 0 AND r.segment > ? ORDER BY r.segment LIMIT ?",
        after, limit,
    )  # fmt: skip
    return [KnownBad(*row) for row in rows]


def queued_by_survivors(sql: Sql) -> dict[int, int]:
    """How many segments wait for repair, by the shards that they still have."""
    rows = sql.rows("SELECT survivors, count(*) FROM repair_queue GROUP BY survivors")
    return {int(survivors): int(count) for survivors, count in rows}


@dataclass(frozen=True, slots=True)
class Lease:
    """Which session does a job. `left_s` is below 0 once the lease has run out."""

    session: int
    epoch: int
    left_s: int


def job_leases(sql: Sql) -> dict[str, Lease]:
    rows = sql.rows("SELECT name, session, epoch, expires_at - {now} FROM job_lease")
    return {name: Lease(*rest) for name, *rest in rows}


def waiting(sql: Sql) -> dict[str, int]:
    """How much there is left to do for the jobs that delete: contents to collect, rows of the
    outbox. It counts in an index."""
    tables = {COLLECT: "collect_queue", OUTBOX: "outbox_delete"}
    counts = {job: sql.only(f"SELECT count(*) FROM {table}") for job, table in tables.items()}
    return {job: int(count) for job, (count,) in counts.items()}


def cluster_age_s(sql: Sql) -> int:
    """How long ago this database was made."""
    row = sql.only("SELECT {now} - created_at FROM cluster")
    return max(0, int(row[0]))


class Inspecting(ABC):
    """The part of Metadata that answers operators, and serves the checks."""

    @abstractmethod
    async def _read(self, query: Callable[[Sql], T]) -> T: ...

    @abstractmethod
    async def _write(self, change: Callable[[Sql], T]) -> T: ...

    async def layout_uses(self, after: int, limit: int) -> list[LayoutUse]:
        """Of `limit` layouts at most, in order of their ids, from behind `after` on."""
        return await self._read(partial(layout_uses, after=after, limit=limit))

    async def known_bad(self, after: bytes, limit: int) -> list[KnownBad]:
        """Segments with shards that are known to be bad, in order of their ids, from behind `after`
        on."""
        return await self._read(partial(known_bad, after=after, limit=limit))

    async def queued_by_survivors(self) -> Mapping[int, int]:
        """How many segments wait for repair, by the shards that they still have."""
        return await self._read(queued_by_survivors)

    async def hopeless(self, after: bytes, limit: int) -> HopelessPage:
        """Segments of which too few shards are left, with the contents that need them."""
        return await self._read(partial(hopeless, after=after, limit=limit))

    async def nodes(self) -> list[NodeRow]:
        return await self._read(reads.nodes)

    async def wishes(self) -> dict[int, Wish]:
        """What operators want of nodes, where that is not simply that they serve."""
        return await self._read(reads.wishes)

    async def deletes_stopped(self) -> str:
        """Why nothing may be deleted on nodes; empty if it may."""
        return await self._read(sessions.deletes_stopped)

    async def counts(self) -> dict[str, int]:
        """How many rows the larger tables have, by their names."""
        return await self._read(reads.counts)

    async def job_states(self) -> dict[str, JobState]:
        """What the jobs remember, by their names."""
        return await self._read(jobs.job_states)

    async def cluster_age_s(self) -> int:
        return await self._read(cluster_age_s)

    async def job_leases(self) -> Mapping[str, Lease]:
        """Who does which job, by the jobs' names; also leases that have run out."""
        return await self._read(job_leases)

    async def explained(self, content: ContentId, first: int, limit: int) -> Explained | None:
        """A content with some of its segments, and how they are cared for; None if there is none
        and nothing is being deleted of it."""
        return await self._read(partial(explained, content=content, first=first, limit=limit))

    async def waiting(self) -> Mapping[str, int]:
        """How much there is left to do for the jobs that delete, by their names."""
        return await self._read(waiting)

    async def segments_after(self, after: bytes, limit: int) -> list[StoredSegment]:
        """In order of their ids, from behind `after` on."""
        return await self._read(partial(segments_after, after=after, limit=limit))

    async def moved(self, seen: StoredSegment) -> StoredSegment | None:
        """The segment as it is now, if its shards lie elsewhere than `seen` says, or it was written
        anew; else None."""
        return await self._read(partial(moved, seen=seen))

    async def set_verified(self, segments: Sequence[StoredSegment]) -> None:
        """All their shards were found good just now."""
        await self._write(partial(set_verified, segments=segments))

    async def now_s(self) -> int:
        """The time by the database's clock."""
        return await self._read(Sql.now_s)

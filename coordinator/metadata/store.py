"""The metadata database as the coordinator sees it: asynchronous, batched, typed."""

import asyncio
import itertools
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import Any, TypeVar

from common.errors import MetadataDamaged, SessionLost, SixfoldError
from common.failpoints import Point, failpoint
from common.ids import ContentId, SegmentId
from common.segment_list import SegmentList
from coordinator.metadata import (
    collecting,
    jobs,
    notices,
    outbox,
    reads,
    restoring,
    sessions,
    sharing,
    writes,
)
from coordinator.metadata.inspecting import Inspecting
from coordinator.metadata.marks import Marks
from coordinator.metadata.mending import Mending
from coordinator.metadata.rebundling import Rebundling
from coordinator.metadata.rows import (
    COLLECT,
    GENERATION_COUNTER_BITS,
    Committed,
    CopyOf,
    DeleteReason,
    DueDeletes,
    KnownCopy,
    KnownSegment,
    Manifest,
    NewBundle,
    NewContent,
    RepairNotice,
    ShardsOnNode,
    SharedReport,
    Wish,
)
from coordinator.metadata.sharing import IncomingReport, TakenReport
from coordinator.metadata.sql import Sql
from coordinator.metadata.sweeping import Sweeping
from coordinator.metadata.threads import Threads

log = logging.getLogger(__name__)
T = TypeVar("T")

SESSION_LEASE_S = 60
SESSION_RENEW_S = 15


class Metadata(Inspecting):
    """Asks the two threads (threads.py), and takes their answers.

    Holds this process's session, which every commit checks, and makes generations from it.
    """

    def __init__(self, sql: Sql, grace_s: int, lost_after_s: float) -> None:
        self._sql, self._grace_s = sql, grace_s
        self._layouts = writes.Layouts(sql)
        self._threads = Threads(sql, grace_s, lost_after_s, self._layouts, lambda: self.session)
        self.mending = Mending(self._read, self._write, self._layouts)
        self.rebundling = Rebundling(self._read, self._write)
        self.marks = Marks(self._read, self._write, self._layouts, lambda: self.session)
        self.sweeping = Sweeping(self._read, self._write, grace_s)
        self.session = 0
        self._session_lost = asyncio.Event()
        self.cluster_id = ""
        self._counter = itertools.count(1)

    async def start(self) -> None:
        self.cluster_id = await self._read(reads.cluster_id)
        await self._begin_session()

    async def close(self) -> None:
        """Finish what waits, end the session, close the connections."""
        if self.session:
            with suppress(MetadataDamaged):
                await self._write(partial(sessions.close_session, session=self.session))
        await self._threads.close()
        self._sql.database.close()

    async def keep_session(self) -> None:
        """Renew the lease for ever; a lease that was lost is replaced by a new session."""
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(SESSION_RENEW_S):
                    await self._session_lost.wait()
            self._session_lost.clear()
            try:
                await self._write(
                    partial(sessions.renew_session, session=self.session, lease_s=SESSION_LEASE_S)
                )
            except SixfoldError as error:
                log.warning("session %d: %s; beginning a new one", self.session, error)
                with suppress(SixfoldError):  # the next round tries again
                    await self._begin_session()

    async def _begin_session(self) -> None:
        self.session = await self._write(partial(sessions.open_session, lease_s=SESSION_LEASE_S))
        self._counter = itertools.count(1)

    def new_generation(self) -> int:
        """Unique in the cluster: the session number above, a counter below."""
        return (self.session << GENERATION_COUNTER_BITS) | next(self._counter)

    # Looking up

    def find_segment(self, id_: SegmentId) -> Awaitable[KnownSegment | None]:
        """The live segment of these bytes, if there is one."""
        answer: Awaitable[KnownSegment | None] = self._threads.reader.ask(id_)
        return answer

    def find_content(self, id_: ContentId) -> Awaitable[Manifest | None]:
        """The content, if it is visible."""
        answer: Awaitable[Manifest | None] = self._threads.reader.ask(id_)
        return answer

    async def nodes_with_deletes(self) -> list[int]:
        return await self._read(outbox.nodes_with_deletes)

    async def due_deletes(self, node: int, limit: int) -> DueDeletes:
        """What is due on one node; nothing unless this process holds the lease of the outbox."""
        due = partial(outbox.due_deletes, node=node, session=self.session, limit=limit)
        return await self._read(due)

    async def writes_in_outbox(self) -> set[tuple[SegmentId, int]]:
        """The segments and generations of which something is to be deleted."""
        return await self._read(outbox.writes_in_outbox)

    def find_copy(self, id_: ContentId) -> Awaitable[KnownCopy | None]:
        """Where the bytes of a small content are already."""
        answer: Awaitable[KnownCopy | None] = self._threads.reader.ask(CopyOf(id_))
        return answer

    # Changing

    async def commit_content(self, new: NewContent) -> Committed:
        """Durable and visible on return."""
        committed: Committed = await self._commit(new)
        return committed

    async def commit_bundle(self, new: NewBundle) -> list[bool]:
        """The same with each of its contents: whether it was not visible before."""
        visible: list[bool] = await self._commit(new)
        return visible

    async def _commit(self, new: NewContent | NewBundle) -> Any:
        try:
            return await self._threads.writer.ask(new)
        except SessionLost:
            self._session_lost.set()
            raise

    async def touch_segment(self, segment: SegmentId) -> None:
        """Keep the collector away from it for another grace period."""
        await self._write(partial(writes.touch_segment, segment=segment))

    async def unpin(self, content: ContentId) -> bool:
        """Make a content invisible. False if it was not visible."""
        gone = await self._write(partial(collecting.unpin, content=content))
        failpoint(Point.UNPINNED)
        return gone

    async def collect(self, limit: int) -> int:
        """Remove contents that nobody pins and that are past the grace period; how many."""
        candidates = await self._read(
            partial(reads.collectable, grace_s=self._grace_s, limit=limit)
        )
        removed = 0
        for content in candidates:
            removed += await self._write(partial(self._collect_one, content=content))
            failpoint(Point.COLLECTED)
        if removed:
            await self._write(partial(jobs.count_in_job_state, name=COLLECT, collected=removed))
        return removed

    def _collect_one(self, sql: Sql, content: ContentId) -> bool:
        return collecting.collect(sql, content, reads.segments_behind(sql, content), self._grace_s)

    async def add_deletes(self, deletes: Sequence[ShardsOnNode], why: DeleteReason) -> None:
        await self._write(partial(writes.add_deletes, deletes=deletes, why=why))

    async def finish_deletes(self, done: DueDeletes) -> bool:
        """False, and they stay, if another held the lease of the outbox since they were read."""
        return await self._write(partial(outbox.finish_deletes, done=done, session=self.session))

    async def forget_deletes_of_removed_nodes(self) -> None:
        nodes = await self._read(outbox.removed_nodes_with_deletes)
        if nodes:
            await self._write(partial(outbox.forget_deletes, nodes=nodes))

    async def queue_repair(self, notice: RepairNotice) -> bool:
        """Whether that is news: not if the segment has changed since, or it was known."""
        return await self._write(partial(notices.queue_repair, notice=notice))

    async def save_job_state(self, name: str, state: Mapping[str, Any]) -> None:
        """What a job must remember, and what it shows of itself: whatever JSON can hold."""
        await self._write(partial(jobs.save_job_state, name=name, state=state))

    async def count_in_job_state(self, name: str, **done: int) -> Mapping[str, int]:
        """So much more, whoever else counts there at the same time. The new counts."""
        return await self._write(lambda sql: jobs.count_in_job_state(sql, name, **done))

    async def set_wish(self, node: int, wish: Wish) -> None:
        """What the operator wants of a node from now on. Raises Conflict as `writes.set_wish`."""
        await self._write(partial(writes.set_wish, node=node, wish=wish))

    # Whether anything may be deleted on nodes

    async def stop_deletes(self, reason: str) -> None:
        """Until an operator allows them. The reasons that there are stay."""
        await self._write(partial(sessions.stop_deletes, reason=reason))

    async def resume_deletes(self, reason: str) -> None:
        """Go on, if only that was why they were stopped."""
        await self._write(partial(sessions.resume_deletes, reason=reason))

    async def allow_deletes(self) -> bool:
        """Whether they were stopped."""
        return await self._write(sessions.allow_deletes)

    # Between the processes of a cluster

    async def save_report(self, incoming: IncomingReport) -> TakenReport:
        """Keep a node's report for all processes. If it shows that the database is older than what
        the node has seen, deletes are stopped and a new session has begun on return.

        Raises Unauthorized for a replay, Conflict for a second process of a living node.
        """
        taken = await self._write(partial(sharing.save_report, incoming=incoming))
        if taken.restored:
            log.critical("deletes are stopped: %s", await self.deletes_stopped())
            await self._begin_session()
        return taken

    async def reports_since(
        self, since_s: int, known: Mapping[int, int]
    ) -> tuple[int, list[SharedReport]]:
        """The database's time, and the reports since `since_s` of other versions than `known`
        holds by node number."""
        return await self._read(partial(sharing.reports_since, since_s=since_s, known=known))

    async def take_lease(self, name: str, lease_s: int) -> int | None:
        """Take or renew the lease of a job: its epoch, None while another process holds it."""
        return await self._write(
            partial(sharing.take_lease, name=name, session=self.session, lease_s=lease_s)
        )

    async def give_back_lease(self, name: str) -> None:
        await self._write(partial(sharing.give_back_lease, name=name, session=self.session))

    # Rebuilding

    async def begin_rebuild(self) -> restoring.Begun:
        """Stop deletes, for a reason that is to be taken away when it is over. Raises Conflict
        while another process is at it."""
        return await self._write(partial(restoring.begin_rebuild, run=self.new_generation()))

    async def end_rebuild(self, begun: restoring.Begun) -> None:
        """It has found all nodes."""
        await self._write(partial(restoring.end_rebuild, begun=begun))

    async def restore_segments(
        self, found: Sequence[restoring.Found], reason: str
    ) -> list[restoring.Rivals]:
        """Those of which only a look can tell whether they are to replace what is known. Raises
        Conflict unless deletes are stopped for that reason still."""
        restore = partial(
            restoring.restore_segments, layouts=self._layouts, found=found, reason=reason
        )
        return await self._write(restore)

    async def restore_content(
        self, listed: SegmentList, list_id: SegmentId, lost: bool = False
    ) -> bool:
        """Whether it was not there, and is now. `lost` says that it could not be read where it is
        known to be, and can be as the list says."""
        restore = partial(restoring.restore_content, listed=listed, list_id=list_id, lost=lost)
        return await self._write(restore)

    async def restore_single_contents(self) -> int:
        """How many contents of one segment there were; the last step of a rebuild."""
        restored = await self._write(restoring.restore_single_contents)
        await self._begin_session()  # above all sessions whose generations were found
        return restored

    # The threads

    async def _read(self, query: Callable[[Sql], T]) -> T:
        answer: T = await self._threads.reader.ask(query)
        return answer

    async def _write(self, change: Callable[[Sql], T]) -> T:
        answer: T = await self._threads.writer.ask(change)
        return answer

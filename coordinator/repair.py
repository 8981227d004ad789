"""Repair: finds the segments that are short of good shards, or whose shards lie badly, and mends
them, fewest survivors first, but what cannot be mended as far as is known behind all else.

What reads, uploads, scrubs and sweeps find is in the repair queue already. The job itself looks for
what follows from nodes: whenever nodes are lost, removed, drained or come (back), it goes through
all layouts, a page at a time, and queues the segments whose layout could be better now. Layouts
that no segment has any more are forgotten then. Where it stands is in the database, so another
process goes on from there.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from common.errors import SixfoldError
from common.units import MIB
from coordinator.jobs import LEASE_S, progress_in
from coordinator.mend import Mended, Mender
from coordinator.metadata.mending import LAYOUTS_AT_ONCE
from coordinator.metadata.packing import mask_of
from coordinator.metadata.repair_queue import Repair
from coordinator.metadata.rows import NO_NODE, Seen, StoredSegment
from coordinator.moves import crowded
from coordinator.node import NodeState
from coordinator.services import Services
from coordinator.throttle import Throttle

log = logging.getLogger(__name__)

# Also when no node has changed: an upload that began before may end after the search.
SEARCH_AGAIN_S, SEARCH_AGAIN_DRAINING_S = 600.0, 60.0
SEGMENTS_AT_ONCE = 32
WOKEN = 10_000  # segments that waited, when a node has come or gone
STRIPES_AT_ONCE_BYTES = 32 * MIB
HOPELESS_EVERY_S = 2.0  # one, while others are due
SAVE_EVERY_S = 2.0
FIRST_DELAY_S, LAST_DELAY_S = 5, 600  # until the next try, doubled each time


@dataclass(slots=True)
class Progress:
    """What the job shows of itself, and where it stands. `nodes` is the state of all nodes for
    which it goes through the layouts, `layout` the last one looked at, -1 when it is through. The
    rates are those at which segments have lately been mended, as far as they could be, 0 if never.
    `hopeless` segments of the queue have fewer than k good shards, and `waiting` ones were tried in
    vain, the next because of `waits_for`; `left_s` is an estimate for the others."""

    nodes: str = ""
    layout: int = -1
    segments: int = 0
    bytes: int = 0
    segments_per_s: float = 0.0
    bytes_per_s: float = 0.0
    queued: int = 0
    hopeless: int = 0
    waiting: int = 0
    waits_for: str = ""
    left_s: float | None = None

    def note(self, segments: int, size_bytes: int, took_s: float) -> None:
        """So much has been mended; the rates are moving averages."""
        self.segments += segments
        self.bytes += size_bytes
        old = (self.segments_per_s or segments / took_s, self.bytes_per_s or size_bytes / took_s)
        self.segments_per_s = round(0.9 * old[0] + 0.1 * segments / took_s, 3)
        self.bytes_per_s = round(0.9 * old[1] + 0.1 * size_bytes / took_s, 1)


class RepairWorker:
    """The job; see above."""

    name = "repair"
    rest_s = 1.0

    def __init__(
        self,
        services: Services,
        throttle: Throttle,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._services, self._throttle, self._clock = services, throttle, clock
        self._mender = Mender(services)
        self._metadata, self._mending = services.metadata, services.metadata.mending
        self._progress = Progress()
        self._saved: dict[str, Any] = {}
        self._saved_at_s = self._searched_at_s = self._stepped_at_s = float("-inf")
        self._hopeless_at_s = float("-inf")

    async def step(self) -> bool:
        progress = await self._loaded()
        searching = await self._search(progress)
        mended = await self._mend_some(progress)
        await self._save(progress, at_once=not mended)
        return searching or mended

    async def _loaded(self) -> Progress:
        """Where it stands. After a pause another process may have done the last steps."""
        now_s, before_s = self._clock(), self._stepped_at_s
        self._stepped_at_s = now_s
        if now_s - before_s >= LEASE_S:
            states = await self._metadata.job_states()
            self._progress = progress_in(states, self.name, Progress)
            self._saved = dict(states[self.name].state) if self.name in states else {}
        return self._progress

    # Searching

    async def _search(self, progress: Progress) -> bool:
        """Go through a page of layouts. True if there are more."""
        if progress.layout < 0:
            nodes, now_s = self._nodes(), self._clock()
            if nodes != progress.nodes:
                await self._mending.try_again_now(self._services.codec.k, WOKEN)
            elif now_s - self._searched_at_s < self._search_again_s():
                return False
            self._searched_at_s = now_s
            progress.nodes, progress.layout = nodes, 0
        page = await self._metadata.layout_uses(progress.layout, LAYOUTS_AT_ONCE)
        judge = self._judge()
        found = [
            (use.id, *trouble) for use in page if use.segments and (trouble := judge(use.layout))
        ]
        if found:
            await self._mending.queue_layouts(found)
        if unused := [use.id for use in page if not use.segments]:
            await self._mending.forget_layouts(unused)
        progress.layout = page[-1].id if len(page) == LAYOUTS_AT_ONCE else -1
        return progress.layout >= 0

    def _search_again_s(self) -> float:
        members = self._services.cluster.membership
        drains = members.count(NodeState.DRAINING) > 0
        return SEARCH_AGAIN_DRAINING_S if drains else SEARCH_AGAIN_S

    def _nodes(self) -> str:
        """What the search depends on: what is written while a node is away can be spread better
        when it is back, so it matters who is suspect too; and whether lost ones can be read."""
        members = self._services.cluster.membership
        return ",".join(
            f"{number}:{members.state(node)},{node.row.wish},{members.is_gone(number):d}"
            for number, node in sorted(members.nodes.items())
        )

    def _judge(self) -> Callable[[tuple[int, ...]], tuple[int, str] | None]:
        """Tells of a layout, as nodes are now, which shards are on no node, as a mask, and what is
        wrong, if anything is."""
        members, k = self._services.cluster.membership, self._services.codec.k
        targets = list(members.targets(0).values())
        gone = {NO_NODE, *filter(members.is_gone, members.nodes)}
        leaving = set(filter(members.is_leaving, members.nodes))

        def trouble(layout: tuple[int, ...]) -> tuple[int, str] | None:
            if not gone.isdisjoint(layout):
                lacking = mask_of(i for i, node in enumerate(layout) if node in gone)
                return lacking, "shards on nodes that are lost"
            if not leaving.isdisjoint(layout):
                return 0, "shards on a node that is drained or lost"
            if crowded(layout, members.zone_of, targets, len(layout) - k):
                return 0, "shards that could be spread better"
            return None

        return trouble

    # Mending

    async def _mend_some(self, progress: Progress) -> bool:
        """The segments that need it most, a few at a time. True if that helped any."""
        batch = await self._due()
        if not batch:
            return False
        began_s = self._clock()
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(self._mend(repair)) for repair in batch]
        done = [(repair.stored, task.result()) for repair, task in zip(batch, tasks, strict=True)]
        done_bytes = [stored.size_bytes for stored, mended in done if mended and mended.has_helped]
        await self._throttle.spend(
            sum(min(stored.size_bytes, mended.read_bytes) for stored, mended in done if mended)
        )
        if done_bytes:
            took_s = max(1e-3, self._clock() - began_s)
            progress.note(len(done_bytes), sum(done_bytes), took_s)
        return bool(done_bytes)

    async def _due(self) -> list[Repair]:
        """What can be mended, as far as is known; and of what is hopeless one now and then, or as
        many if nothing else is due."""
        codec, now_s = self._services.codec, self._clock()
        mendable, hopeless = range(codec.k, codec.n + 1), range(codec.k)
        batch = self._batch(await self._mending.due_repairs(mendable, SEGMENTS_AT_ONCE))
        if batch and now_s - self._hopeless_at_s < HOPELESS_EVERY_S:
            return batch
        limit = 1 if batch else SEGMENTS_AT_ONCE
        self._hopeless_at_s = now_s
        return batch + self._batch(await self._mending.due_repairs(hopeless, limit))

    @staticmethod
    def _batch(due: Sequence[Repair]) -> list[Repair]:
        """As many as their stripes allow, at least one."""
        batch, total_bytes = list[Repair](), 0
        for repair in due:
            total_bytes += repair.stored.n * repair.stored.shard_bytes
            if batch and total_bytes > STRIPES_AT_ONCE_BYTES:
                break
            batch.append(repair)
        return batch

    async def _mend(self, repair: Repair) -> Mended | None:
        """How it went, as the queue knows now; None if it did not."""
        stored = repair.stored
        try:
            mended = await self._mender.mend(stored)
        except SixfoldError as error:
            log.warning("segment %s could not be mended: %s", stored.id, error)
            await self._postpone(repair, stored, None, str(error))
            return None
        except Exception as error:  # a defect: it must be seen, and must not hold up the others
            log.exception("segment %s could not be mended", stored.id)
            await self._postpone(repair, stored, None, f"a defect: {error!r}")
            return None
        if mended.superseded:
            return mended  # the next step sees it as it is then
        now = replace(stored, layout=mended.layout or stored.layout)
        if mended.is_whole:
            was_good = mended.written_bytes == 0
            await self._mending.set_whole(now, repair.survivors, verified=was_good)
            return mended
        if mended.hopeless and repair.survivors >= stored.k:
            log.error("segment %s: %s", stored.id, mended.reason)
        await self._postpone(repair, now, mended.seen, mended.reason)
        return mended

    async def _postpone(
        self, repair: Repair, stored: StoredSegment, seen: Seen | None, reason: str
    ) -> None:
        delay_s = min(LAST_DELAY_S, FIRST_DELAY_S << min(repair.attempts, 10))
        await self._mending.postpone(stored, seen, reason, delay_s)

    # Telling

    async def _save(self, progress: Progress, at_once: bool) -> None:
        if not at_once and self._clock() - self._saved_at_s < SAVE_EVERY_S:
            return
        codec = self._services.codec
        backlog = await self._mending.backlog(codec.k, codec.n)
        progress.queued, progress.hopeless = backlog.queued, backlog.hopeless
        progress.waiting, progress.waits_for = backlog.waiting, backlog.waits_for
        rate = progress.segments_per_s
        progress.left_s = round(backlog.due / rate, 1) if rate else None
        state = asdict(progress)
        if state != self._saved:
            await self._metadata.save_job_state(self.name, state)
            self._saved, self._saved_at_s = state, self._clock()

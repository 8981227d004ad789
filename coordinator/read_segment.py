"""Reads from one segment: from where it lies now, and what turns out to be bad goes to repair."""

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from common.errors import SixfoldError, Unreadable
from coordinator.latency import HedgePolicy
from coordinator.metadata import RepairNotice, StoredSegment
from coordinator.offload import INLINE_BYTES
from coordinator.read_stripe import StripeRead
from coordinator.services import Services
from coordinator.stripe_rows import Rows

log = logging.getLogger(__name__)

R = TypeVar("R", bound=Rows)


@dataclass(frozen=True, slots=True)
class Slice:
    """The bytes [start, end) of one segment."""

    segment: StoredSegment
    start: int
    end: int


class SegmentReads:
    """One for the process."""

    def __init__(self, services: Services) -> None:
        self._services = services
        most_s = services.config.read_timeout_s / 4
        # Small and large reads differ too much to share one percentile.
        self._small = HedgePolicy(0.05, 0.002, most_s)
        self._large = HedgePolicy(0.2, 0.03, most_s)
        self._notices: set[asyncio.Task[None]] = set()

    async def read(self, part: Slice, rows_for: Callable[[StoredSegment], R]) -> R:
        """The verified shards that `part` lies in. What cannot be read is looked up once more:
        shards are moved, and lost segments written anew, while a reader goes on. Raises
        Unreadable."""
        segment = part.segment
        while True:
            rows = rows_for(segment)
            try:
                await self.read_here(Slice(segment, part.start, part.end), rows)
                return rows
            except Unreadable:
                now = await self._services.metadata.moved(segment)
                if now is None:
                    raise
                segment = now

    async def settle(self) -> None:
        """Wait until what reads found out is in the repair queue."""
        while self._notices:
            await asyncio.wait(self._notices)

    async def read_here(self, part: Slice, rows: Rows) -> None:
        """From where the segment lay when it was looked up, and not from elsewhere."""
        segment = part.segment
        shard_bytes = segment.shard_bytes or 1
        wanted = range(part.start // shard_bytes, -(-part.end // shard_bytes))
        hedge = self._small if len(wanted) * shard_bytes <= INLINE_BYTES else self._large
        read = StripeRead(self._services, hedge, segment, rows, wanted)
        try:
            await read.run()
        finally:
            if read.bad:
                self._notice(segment, read.bad)

    def _notice(self, segment: StoredSegment, bad: dict[int, str]) -> None:
        """Put the segment in the repair queue, behind the reader's back."""
        reasons = ", ".join(f"shard {index} {reason}" for index, reason in sorted(bad.items()))
        notice = RepairNotice(segment.id, segment.generation, reasons, segment.places(bad))
        task = asyncio.create_task(self._queue(notice))
        self._notices.add(task)
        task.add_done_callback(self._notices.discard)

    async def _queue(self, notice: RepairNotice) -> None:
        try:
            if await self._services.metadata.queue_repair(notice):
                log.warning("segment %s: %s", notice.segment, notice.reason)
        except SixfoldError as error:
            log.error("segment %s is not in the repair queue: %s", notice.segment, error)

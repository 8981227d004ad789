"""The background work of a store: compaction, scrub, and what has been put aside."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass

from common.errors import SixfoldError
from common.units import MIB
from common.upkeep import ScrubReport
from shardd.clock import NodeClock
from shardd.compaction import Compactor
from shardd.parts import StoreParts, to_the_end
from shardd.quarantine import Quarantine
from shardd.quarantine_files import QuarantineFolder
from shardd.scrub import Scrubber
from shardd.throttle import Clocks, Throttle

log = logging.getLogger(__name__)

DAY_S = 86_400.0
_REST_S = 10.0  # between looking whether there is something to do


@dataclass(frozen=True, slots=True)
class UpkeepLimits:
    """From what dead part on a volume is compacted; how fast; how fast scrub reads, and how long
    after the beginning of a pass the next one begins; how long orphans are kept."""

    compact_dead_part: float = 0.3
    compact_bytes_per_s: int = 32 * MIB
    scrub_bytes_per_s: int = 8 * MIB
    scrub_interval_s: float = 7 * DAY_S
    quarantine_s: float = 7 * DAY_S


class Upkeep:
    """Used from the event loop. Nothing happens by itself until `start`."""

    def __init__(
        self, parts: StoreParts, limits: UpkeepLimits, tight_bytes: int, clocks: Clocks
    ) -> None:
        """With less than `tight_bytes` of room, any dead space is worth a compaction."""
        self._limits = limits
        self.may_drop: Callable[[], bool] = lambda: False  # whether orphans may go for good
        kept = QuarantineFolder(parts.directory, parts.disk, parts.fail)
        self._clock = NodeClock(parts.directory, parts.disk, clocks, kept.newest_s)
        self.quarantine = Quarantine(parts, self._rot_found, self._clock)
        condemn = self.quarantine.condemn
        copying = Throttle(limits.compact_bytes_per_s, clocks)
        reading = Throttle(limits.scrub_bytes_per_s, clocks)
        self.scrubber = Scrubber(parts, condemn, reading, limits.scrub_interval_s, clocks.wall_s)
        self.compactor = Compactor(parts, condemn, copying, limits.compact_dead_part, tight_bytes)
        self._tasks: list[asyncio.Task[None]] = []

    def _rot_found(self) -> None:
        self.scrubber.rot_found()

    def scrub_report(self) -> ScrubReport:
        return self.scrubber.report(self.quarantine.bad_shards)

    def start(self) -> None:
        """Work in the background until `stop`."""
        for step in (self._compact, self.scrubber.scrub_once, self._expire, self._tick):
            wanted = self.scrubber.wanted if step == self.scrubber.scrub_once else asyncio.Event()
            self._tasks.append(asyncio.create_task(_repeat(step, wanted)))

    async def stop(self) -> None:
        """Ends in the middle of whatever runs, which goes on after the next start."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._tasks.clear()
        await self.scrubber.close()

    async def _compact(self) -> bool:
        return await self.compactor.compact_once() > 0

    async def _expire(self) -> bool:
        kept_s = self._limits.quarantine_s
        return await self.quarantine.expire(kept_s, self.may_drop) > 0

    async def _tick(self) -> bool:
        await to_the_end(self._clock.tick)
        return False


async def _repeat(step: Callable[[], Awaitable[bool]], wanted: asyncio.Event) -> None:
    """Step as long as there is something to do, then rest, or until more is `wanted`. Trouble that
    stays, as on a node that is read-only, is told once."""
    trouble = ""
    while True:
        try:
            if await step():
                trouble = ""
                continue
        except (OSError, SixfoldError) as error:
            if str(error) != trouble:
                trouble = str(error)
                log.error("upkeep: %s", trouble)
            await asyncio.sleep(_REST_S)  # even if more is wanted: it may well fail again
        except Exception:
            log.exception("upkeep failed")
            await asyncio.sleep(_REST_S)
        with suppress(TimeoutError):
            async with asyncio.timeout(_REST_S):
                await wanted.wait()

"""Scrub: looks at all shards of all segments, one pass per interval, and queues what needs repair.

It finds what no node finds by itself: shards that are good records of the wrong bytes, shards that
a node has lost, and data and parity that do not belong together.
"""

import logging
from collections.abc import Mapping
from dataclasses import asdict, dataclass

from common.errors import SixfoldError
from coordinator.check import StripeCheck
from coordinator.jobs import progress_in
from coordinator.metadata import JobState, StoredSegment
from coordinator.services import Services
from coordinator.survey import ShardState
from coordinator.throttle import Throttle
from coordinator.wanted import SCRUB, wanted_passes

log = logging.getLogger(__name__)

SEGMENTS_AT_ONCE = 16


@dataclass(slots=True)
class Progress:
    """Where the job stands, and what it shows of itself. Times are the database's, 0 never;
    `verified_at_s` is when the last complete pass began: all that was there then was looked at
    since. `served` is the last request for a pass that this or an earlier pass answers. `after` is
    the last segment looked at. The counts are those of the running pass, or of the last one; of
    `unchecked` segments some shard could not be reached, whatever was found of the others."""

    running: bool = False
    served: int = 0
    began_at_s: int = 0
    verified_at_s: int = 0
    after: str = ""
    segments: int = 0
    bytes: int = 0
    whole: int = 0
    to_repair: int = 0
    unchecked: int = 0


def progress_of(states: Mapping[str, JobState]) -> Progress:
    """Where the job stands."""
    return progress_in(states, SCRUB, Progress)


class ScrubWorker:
    """The job. A pass begins `interval_s` after the last one began, or when one is wanted."""

    name = SCRUB
    rest_s = 2.0

    def __init__(self, services: Services, throttle: Throttle, interval_s: float) -> None:
        self._metadata, self._check = services.metadata, StripeCheck(services)
        self._throttle, self._interval_s = throttle, interval_s

    async def step(self) -> bool:
        states = await self._metadata.job_states()  # another process may have done the last step
        progress, wanted = progress_of(states), wanted_passes(states, SCRUB)
        if not progress.running and not await self._begin(progress, wanted):
            return False
        after = bytes.fromhex(progress.after)
        segments = await self._metadata.segments_after(after, SEGMENTS_AT_ONCE)
        for segment in segments:
            await self._look_at(segment, progress)
        if len(segments) < SEGMENTS_AT_ONCE:
            progress.running, progress.after = False, ""
            if not progress.unchecked:
                progress.verified_at_s = progress.began_at_s
        else:
            progress.after = str(segments[-1].id)
        await self._metadata.save_job_state(self.name, asdict(progress))
        return progress.running

    async def _begin(self, progress: Progress, wanted: int) -> bool:
        """Begin a pass if it is time for one."""
        now_s = await self._metadata.now_s()
        if wanted <= progress.served and now_s < progress.began_at_s + self._interval_s:
            return False
        progress.running, progress.began_at_s, progress.served = True, now_s, wanted
        progress.segments = progress.bytes = 0
        progress.whole = progress.to_repair = progress.unchecked = 0
        return True

    async def _look_at(self, segment: StoredSegment, progress: Progress) -> None:
        size_bytes = segment.n * segment.shard_bytes
        try:
            found = await self._check.check(segment)
        except SixfoldError as error:
            log.warning("scrub: segment %s was not checked: %s", segment.id, error)
            progress.unchecked += 1
        except Exception:  # a defect: it must be seen, and must not hold up the others
            log.exception("scrub: segment %s was not checked", segment.id)
            progress.unchecked += 1
        else:
            progress.whole += found.is_whole
            progress.to_repair += bool(found.to_repair or found.disagrees)
            progress.unchecked += ShardState.UNREACHABLE in found.states
        progress.segments += 1
        progress.bytes += size_bytes
        await self._throttle.spend(size_bytes)

"""Finds rot: reads every live record, at a bounded rate, and compares it with its checksum.

It goes by the index, so a record whose header has rotted is found as well. A pass covers the
volumes that are there when it begins, the one first whose last verification is the oldest. One
pass follows another after `interval_s`; or at once when rot was found outside of a pass: a disk
that has lost one record may have lost more.
"""

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import aclosing
from functools import partial

from common.errors import SixfoldError
from common.units import MIB
from common.upkeep import ScrubReport
from shardd.entries import Entry, Location
from shardd.parts import StoreParts, to_the_end
from shardd.scrub_state import FILE_NAME, ScrubState
from shardd.throttle import Throttle
from shardd.verify import Examined, RecordFile
from shardd.volume import Volume

log = logging.getLogger(__name__)

_STEP_ENTRIES = 4096
_SAVE_BYTES = 64 * MIB  # so much is read again after a crash


class Scrubber:
    """Used from the event loop; one step at a time, whoever asks."""

    def __init__(
        self,
        parts: StoreParts,
        condemn: Callable[[Sequence[Examined]], Awaitable[None]],
        throttle: Throttle,
        interval_s: float,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        self._parts, self._condemn, self._throttle = parts, condemn, throttle
        self._interval_s, self._clock = interval_s, wall_clock
        self._path = parts.directory.path / FILE_NAME
        self._state = ScrubState.load(parts.disk, self._path)
        self._unsaved_bytes, self._changed = 0, False
        self._suspects: set[bytes] = set()
        self._stepping = asyncio.Lock()
        self.wanted = asyncio.Event()  # there is something to do before the next pass is due

    def report(self, bad: int) -> ScrubReport:
        state = self._state
        return ScrubReport(
            state.running,
            state.passes,
            state.scanned_bytes,
            state.total_bytes,
            bad,
            state.started_at,
            self.verified_at,
            state.rotten,
        )

    @property
    def verified_at(self) -> int:
        """As in ScrubReport."""
        state = self._state
        covered = [number for number in self._numbers() if number < state.covered]
        return min(map(self.verified_at_of, covered), default=state.completed_at)

    def verified_at_of(self, volume: int) -> int:
        """When its last full verification began."""
        return self._state.verified_at.get(volume, 0)

    def shard_verified_at(self, place: Location) -> int:
        """When the last full verification of its volume began, if the record was there by then."""
        was_there = place.offset < self._state.verified_bytes.get(place.volume, 0)
        return self.verified_at_of(place.volume) if was_there else 0

    def start(self) -> None:
        """Begin a pass over everything now; one that runs already begins again."""
        state = self._state
        state.running, state.started_at = True, self._now()
        state.until = max(self._numbers(), default=0) + 1
        state.volume = state.offset = state.scanned_bytes = state.total_bytes = 0
        # Times are in whole seconds: what was verified within this one is to be verified again.
        latest = state.started_at - 1
        state.verified_at = {n: min(at, latest) for n, at in state.verified_at.items()}
        self._changed = True
        self.wanted.set()

    def rot_found(self) -> None:
        """Where one record has rotted there may be more."""
        self._state.rotten += 1
        self._changed = True
        if not self._state.running:
            self.start()

    def suspect(self, key: bytes) -> None:
        """This shard could not be read as it should: the next step looks at it."""
        self._suspects.add(key)
        self.wanted.set()

    async def scrub_once(self) -> bool:
        """One bounded step; whether there may be more to do now. Raises the disk's OSError, or
        what the writer or the index refuse with; then the same step comes again."""
        async with self._stepping:
            self.wanted.clear()
            if self._suspects:
                await self._look_at_suspects()
                return True
            if self._is_due():
                self.start()
            elif not self._state.running:
                return False
            await self._go_on()
            return True

    def _is_due(self) -> bool:
        """Whether a pass is to begin. One that began in the future, by a clock that has been set
        right since, says nothing: neither how long ago it was nor what it has verified since."""
        now_s, began_s = self._now(), self._state.started_at
        is_late = not began_s or now_s >= began_s + self._interval_s
        return now_s < began_s or (is_late and not self._state.running)

    async def _look_at_suspects(self) -> None:
        keys = list(self._suspects)
        entries = await to_the_end(lambda: self._parts.catalog.entries(keys))
        for entry in entries:
            volume = self._parts.volumes.by_number.get(entry.volume)
            if volume is not None:
                async for _ in self._examine(volume, [entry]):
                    pass
        self._suspects.difference_update(keys)

    async def _go_on(self) -> None:
        state = self._state
        volume = self._parts.volumes.by_number.get(state.volume)
        if volume is None:
            await to_the_end(self._measure)
            if (volume := self._next_volume()) is None:
                await to_the_end(self._finish_pass)
                return
            await to_the_end(self.save)
        place = volume.number, state.offset, _STEP_ENTRIES
        page = await to_the_end(lambda: self._parts.catalog.live_in(*place))
        async with aclosing(self._examine(volume, page)) as pieces:
            async for examined in pieces:
                if state.volume != volume.number:
                    return  # begun again meanwhile
                await self._note(examined)
        if not page and state.volume == volume.number:
            state.verified_at[volume.number] = state.volume_started_at
            state.verified_bytes[volume.number] = state.volume_bytes
            state.volume, self._changed = 0, True

    async def _note(self, examined: Sequence[Examined]) -> None:
        size_bytes = sum(each.size_bytes for each in examined)
        self._state.offset = examined[-1].entry.offset
        self._state.scanned_bytes += size_bytes
        self._unsaved_bytes += size_bytes
        self._changed = True
        if self._unsaved_bytes >= _SAVE_BYTES:
            await to_the_end(self.save)

    def _measure(self) -> None:
        """Before each volume: the index then knows all that was in it."""
        use = self._parts.catalog.use()
        if not self._state.total_bytes:
            covered = [use[number] for number in self._numbers() if number in use]
            self._state.total_bytes = sum(each.live_bytes for each in covered)

    def _next_volume(self) -> Volume | None:
        """The one whose verification is the oldest, of those that this pass has not seen."""
        state = self._state
        due = [
            number
            for number in self._numbers()
            if number < state.until and self.verified_at_of(number) < state.started_at
        ]
        if not due:
            return None
        state.volume = min(due, key=lambda number: (self.verified_at_of(number), number))
        volume = self._parts.volumes.by_number[state.volume]
        state.offset, state.volume_started_at, state.volume_bytes = 0, self._now(), volume.end
        return volume

    def _numbers(self) -> list[int]:
        """Of all volumes. A copy: the writer's thread may begin another one."""
        return list(self._parts.volumes.by_number)

    async def _examine(
        self, volume: Volume, entries: Sequence[Entry]
    ) -> AsyncGenerator[list[Examined], None]:
        """Verify them, a window at a time; what is rotten is out of service then. Ends early if
        the volume is compacted meanwhile, which verifies it. A file that is gone for any other
        reason is an error: the same step would come again at once, for ever."""
        if not entries:
            return
        try:
            file = RecordFile(self._parts.disk, volume.path)
        except FileNotFoundError:
            if volume.number in self._parts.volumes.by_number:
                raise
            return
        with file:
            while entries:
                examined = await to_the_end(partial(file.examine, entries))
                await self._condemn([each for each in examined if each.fault])
                yield examined
                await self._throttle.spend(sum(each.size_bytes for each in examined))
                entries = entries[len(examined) :]

    def _finish_pass(self) -> None:
        state = self._state
        state.running = False
        state.passes += 1
        state.covered, state.completed_at = state.until, state.started_at
        known = set(self._numbers())
        state.verified_at = {n: at for n, at in state.verified_at.items() if n in known}
        state.verified_bytes = {n: end for n, end in state.verified_bytes.items() if n in known}
        self.save()
        log.info("scrub: pass %d is done, %d bytes", state.passes, state.scanned_bytes)

    def save(self) -> None:
        """Raises the disk's OSError, or WrongNode."""
        self._parts.directory.check()
        self._unsaved_bytes, self._changed = 0, False
        self._state.save(self._parts.disk, self._path)

    async def close(self) -> None:
        """Keep how far it is, if it can be; no step may be running."""
        try:
            if self._changed:
                await asyncio.to_thread(self.save)
        except (OSError, SixfoldError) as error:
            log.warning("%s: how far scrub is cannot be kept: %s", self._path, error)

    def _now(self) -> int:
        return int(self._clock())

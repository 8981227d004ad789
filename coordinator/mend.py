"""Makes one stripe whole: rebuilds shards that are gone or bad, and moves those that lie badly.

The order of things: look at all shards; hold the bytes against the segment's id; compute what is
missing from k good ones and hold it against the checksums; append it where it belongs; switch the
layout by compare-and-set. A shard that is bad or missing on a node that works is rebuilt in its own
place, which no layout needs to hear of: the node takes the latest record of an address. Whatever
fails on the way leaves the segment as it was, and what was appended in vain goes to the outbox;
after a crash the sweep finds it.

What only cannot be reached is waited for: a node that restarts must not cost a rebuild. A lost node
that can be read is treated like one that is drained: what it still has may be the last there is.
Before a segment is given up, its shards are looked for on all nodes.
"""

import asyncio
import logging
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

from common.errors import SixfoldError
from common.failpoints import Point, failpoint
from common.shards import ShardInfo, ShardRecord
from coordinator.metadata import StoredSegment
from coordinator.metadata.packing import mask_of
from coordinator.metadata.rows import NO_NODE, Places, Seen
from coordinator.moves import crowded, destinations, relief
from coordinator.services import Services
from coordinator.strays import find_strays
from coordinator.survey import ShardState, Survey
from coordinator.unproven import find_proven

log = logging.getLogger(__name__)

BUFFER_WAIT_S = 30.0
_TO_REBUILD = (ShardState.BAD, ShardState.MISSING, ShardState.LOST, ShardState.ABSENT)


@dataclass(frozen=True, slots=True)
class Mended:
    """How it went. `survivors` were good before, or could not be reached and are not known to be
    bad. `seen` is how the shards are now, as far as that is known. `unreachable` and `homeless`
    shards remain, the latter for want of a node; `read_bytes` came from nodes, `written_bytes` went
    there. `superseded` says that the segment has changed meanwhile, and that nothing of this
    counts."""

    survivors: int
    seen: Seen
    unreachable: int = 0
    homeless: int = 0
    read_bytes: int = 0
    written_bytes: int = 0
    hopeless: bool = False
    superseded: bool = False
    disagrees: bool = False
    layout: tuple[int, ...] = ()  # as it is now, if anything counts

    @property
    def is_whole(self) -> bool:
        """All n shards are good and lie as well as they can."""
        troubles = (self.unreachable, self.homeless, self.hopeless, self.superseded, self.disagrees)
        return not any(troubles)

    @property
    def has_helped(self) -> bool:
        """Whether it stands better than before, or as well as it can."""
        return self.is_whole or (self.written_bytes > 0 and not self.superseded)

    @property
    def reason(self) -> str:
        """What is left to do, in words."""
        if self.disagrees:
            return "the shards do not agree with each other, their checksums or the segment's id"
        if self.hopeless:
            return f"only {self.survivors} shards may still be good"
        if self.unreachable:
            return f"{self.unreachable} shards cannot be reached"
        return f"no node for {self.homeless} shards"


class Mender:
    """Mends stripes. One for the process."""

    def __init__(self, services: Services) -> None:
        self._services, self._cluster = services, services.cluster
        self._mending = services.metadata.mending

    async def mend(self, stored: StoredSegment, relieved: int = NO_NODE) -> Mended:
        """Make the stripe whole. Shards on nodes that are drained are moved, as are those that
        share a node or crowd a zone without need; and those on the node `relieved`, if they can
        lie as well elsewhere.

        Raises Overloaded if there is no memory for it, and what the database raises.
        """
        size_bytes = stored.n * stored.shard_bytes
        with await self._services.buffers.acquire_behind(size_bytes, BUFFER_WAIT_S) as buffer:
            return await self._mend(stored, buffer.memory[:size_bytes], relieved)

    async def _mend(self, stored: StoredSegment, stripe: memoryview, relieved: int) -> Mended:
        survey = Survey(self._services, stored, stripe)
        await survey.run()
        failpoint(Point.MEND_SURVEYED)
        good = survey.good
        if len(good) < stored.k:
            moved = await self._services.metadata.moved(stored) is not None
            moved = moved or await self._adopt(stored, survey)
            moved = moved or await self._adopt_unproven(stored, survey, stripe)
            return replace(_too_few(survey, stored), superseded=moved)
        rebuilt = self._to_rebuild(survey, stored)
        belong = await survey.parity_agrees() and await survey.has_id()
        if not (belong and await survey.rebuild(rebuilt)):
            log.error("segment %s: its shards do not belong together, or to its id", stored.id)
            all_bad = Seen(bad=mask_of(range(stored.n)))
            return Mended(0, all_bad, read_bytes=_read_bytes(survey, stored), disagrees=True)
        stored = replace(stored, checksums=bytes(survey.checksums))
        forbidden = await self._mending.forbidden(stored)
        places, homeless = self._places(stored, survey, rebuilt, relieved, forbidden.places)
        written = await self._write(stored, stripe, places)
        failpoint(Point.MEND_WRITTEN)
        asked_at_s = forbidden.asked_at_s
        return await self._conclude(stored, survey, places, written, homeless, asked_at_s)

    async def _adopt(self, stored: StoredSegment, survey: Survey) -> bool:
        """Before it is given up: let the layout name the shards that lie elsewhere, if any do. They
        may be the last there are: whatever fails, they stay where they are."""
        forbidden = await self._mending.forbidden(stored)
        lacking = sorted(set(range(stored.n)) - set(survey.good))
        found = await find_strays(self._services, stored, lacking)
        strays = {i: node for i, node in found.items() if (i, node) not in forbidden.places}
        if not strays:
            return False
        log.warning("segment %s: shards %s were on other nodes", stored.id, sorted(strays))
        asked_at_s = forbidden.asked_at_s
        return await self._mending.switch_layout(stored, strays, asked_at_s, found=True)

    async def _adopt_unproven(
        self, stored: StoredSegment, survey: Survey, stripe: memoryview
    ) -> bool:
        """The same with shards of which no checksum is known, if they prove to be right."""
        forbidden = await self._mending.forbidden(stored)
        found = await find_proven(self._services, stored, survey, stripe, forbidden.places)
        if found is None:
            return False
        log.warning("segment %s: shards %s were there all the time", stored.id, list(found.places))
        asked_at_s = forbidden.asked_at_s
        return await self._mending.switch_layout(
            found.segment, found.places, asked_at_s, found=True
        )

    def _places(
        self,
        stored: StoredSegment,
        survey: Survey,
        rebuilt: Sequence[int],
        relieved: int,
        forbidden: Places,
    ) -> tuple[dict[int, int], int]:
        """Where each shard that has to be written goes, and for how many there is no place."""
        layout, members = stored.layout, self._cluster.membership
        targets = self._cluster.candidates(stored.id, stored.shard_bytes, stored.k, stored.n)
        usable = {target.number for target in targets}
        tolerated = stored.n - stored.k
        at_home = {
            i: layout[i]
            for i in rebuilt
            if survey.states[i] in (ShardState.BAD, ShardState.MISSING) and layout[i] in usable
        }
        homeless = [i for i in rebuilt if i not in at_home]
        leaving = {i for i in survey.good if members.is_leaving(layout[i])}
        rest = [NO_NODE if i in homeless or i in leaving else n for i, n in enumerate(layout)]
        moving = leaving | set(crowded(rest, members.zone_of, targets, tolerated))
        found = destinations(
            rest, {*homeless, *moving}, members.zone_of, targets, tolerated, forbidden
        )
        lacking = len({*homeless, *leaving} - found.keys())
        after = _changed(layout, found)
        if forbidden and not lacking:  # a better place may only have to rest for a while
            lacking = len(crowded(after, members.zone_of, targets, tolerated))
        eased = {i for i in survey.good if after[i] == relieved}
        found |= relief(after, eased, members.zone_of, targets, tolerated, forbidden)
        return at_home | found, lacking

    def _to_rebuild(self, survey: Survey, stored: StoredSegment) -> list[int]:
        """What is gone or bad, and what a node that is drained or lost cannot give."""
        for index in survey.having(ShardState.UNREACHABLE):
            if self._cluster.membership.is_leaving(stored.layout[index]):
                survey.states[index] = ShardState.LOST
        return survey.having(*_TO_REBUILD)

    async def _write(
        self, stored: StoredSegment, stripe: memoryview, places: Mapping[int, int]
    ) -> dict[int, int]:
        """Append the shards; which of them are durable now."""
        rows = self._services.codec.split(stripe, stored.shard_bytes)

        async def append(index: int, node: int) -> bool:
            info = ShardInfo(
                stored.address(index), stored.k, stored.n, stored.size_bytes, stored.encoding,
                stored.shard_bytes, stored.checksum(index),
            )  # fmt: skip
            try:
                await self._cluster.store(node).append([ShardRecord(info, rows[index])])
            except SixfoldError as error:
                log.warning("mending %s: %s", info.address, error)
                return False
            self._cluster.membership.count_sent(node, stored.shard_bytes)
            failpoint(Point.MEND_SHARD_WRITTEN)
            return True

        done = await asyncio.gather(*(append(*place) for place in places.items()))
        return {i: node for (i, node), ok in zip(places.items(), done, strict=True) if ok}

    async def _conclude(
        self,
        stored: StoredSegment,
        survey: Survey,
        places: Mapping[int, int],
        written: Mapping[int, int],
        homeless: int,
        asked_at_s: int,
    ) -> Mended:
        """Let the database know."""
        failed = Places(places.items()) - Places(written.items())
        at_home = Places((i, node) for i, node in written.items() if stored.layout[i] == node)
        await self._mending.give_up(stored, failed | at_home)  # the segment may have been collected
        moved = {i: node for i, node in written.items() if stored.layout[i] != node}
        superseded = bool(moved) and not await self._mending.switch_layout(
            stored, moved, asked_at_s
        )
        failpoint(Point.MEND_SWITCHED)
        return Mended(
            survivors=_survivors(survey, stored),
            seen=_seen(survey, written),
            unreachable=len(survey.having(ShardState.UNREACHABLE)),
            homeless=homeless + len(failed),
            read_bytes=_read_bytes(survey, stored),
            written_bytes=len(written) * stored.shard_bytes,
            superseded=superseded,
            layout=stored.layout if superseded else _changed(stored.layout, moved),
        )


def _survivors(survey: Survey, stored: StoredSegment) -> int:
    unreachable = mask_of(survey.having(ShardState.UNREACHABLE)) & ~stored.known_bad
    return len(survey.good) + unreachable.bit_count()


def _seen(survey: Survey, written: Collection[int] = ()) -> Seen:
    """The survey, and what was written since."""
    good = mask_of([*survey.good, *written])
    bad = mask_of(survey.having(ShardState.BAD, ShardState.MISSING))
    gone = mask_of(survey.having(ShardState.LOST, ShardState.ABSENT))
    return Seen(good, bad & ~good, gone & ~good)


def _too_few(survey: Survey, stored: StoredSegment) -> Mended:
    """Good shards that can be read. If nodes that are away may have enough, they are waited for. Of
    a stripe that did not belong together, they say nothing."""
    survivors, unreachable = _survivors(survey, stored), survey.having(ShardState.UNREACHABLE)
    seen = _seen(survey)
    return Mended(
        survivors=survivors,
        seen=replace(seen, good=0) if stored.all_known_bad else seen,
        unreachable=len(unreachable),
        read_bytes=_read_bytes(survey, stored),
        hopeless=survivors < stored.k,
    )


def _read_bytes(survey: Survey, stored: StoredSegment) -> int:
    return len(survey.having(ShardState.GOOD, ShardState.BAD)) * stored.shard_bytes


def _changed(layout: Sequence[int], places: Mapping[int, int]) -> tuple[int, ...]:
    return tuple(places.get(index, node) for index, node in enumerate(layout))

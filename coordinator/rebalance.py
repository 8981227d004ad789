"""Rebalance: when nodes differ in how full they are, moves shards from the fullest.

It reckons with what layouts put on nodes, not with what nodes report: there, space comes back only
after deletes and compaction. A round counts that, a page of layouts at a time, and then walks over
all segments. Where it stands is in the database, so another process goes on from there. Repair
comes first: while it has work, this job rests.
"""

import logging
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass

from common.errors import SixfoldError
from coordinator.jobs import LEASE_S, progress_in
from coordinator.mend import Mender
from coordinator.metadata import StoredSegment
from coordinator.metadata.mending import LAYOUTS_AT_ONCE
from coordinator.node import NodeState
from coordinator.services import Services
from coordinator.throttle import Throttle

log = logging.getLogger(__name__)

# Of the used fractions: from where on it begins to move, and until where it goes on.
BEGIN_GAP, END_GAP = 0.02, 0.005
LOOK_AGAIN_S = 600.0  # after a round: nodes must have reported what it has brought about
SEGMENTS_AT_ONCE = 256  # looked at
MOVED_AT_ONCE = 8


@dataclass(slots=True)
class Balance:
    """Where the job stands, and what it shows of itself. While it is `moving`, `after` is the last
    segment looked at. `gap` is how far used fractions are apart, by the layouts."""

    moving: bool = False
    after: str = ""
    gap: float = 0.0
    segments: int = 0
    bytes: int = 0


class RebalanceWorker:
    """The job; see above."""

    name = "rebalance"
    rest_s = 5.0

    def __init__(self, services: Services, throttle: Throttle, clock: Callable[[], float]) -> None:
        self._throttle, self._clock = throttle, clock
        self._metadata, self._mending = services.metadata, services.metadata.mending
        self._members = services.cluster.membership
        self._k, self._n = services.codec.k, services.codec.n
        self._mender = Mender(services)
        self._balance = Balance()
        self._stepped_at_s = self._looked_at_s = float("-inf")
        self._count_after: int | None = None  # a layout, while they are counted
        self._bytes: Counter[int] = Counter()  # what layouts put on each node

    async def step(self) -> bool:
        if (await self._mending.backlog(self._k, self._n)).due:
            return False
        await self._load()
        try:
            if self._count_after is not None:
                return await self._count(self._count_after)
            if self._balance.moving:
                return await self._move_some()
            if self._looks_uneven():
                self._count_anew()
            return self._count_after is not None
        finally:
            self._stepped_at_s = self._clock()

    async def _load(self) -> None:
        """After a pause another process may have done the last steps, and moved shards."""
        if self._clock() - self._stepped_at_s < LEASE_S:
            return
        states = await self._metadata.job_states()
        self._balance, self._count_after = progress_in(states, self.name, Balance), None
        if self._balance.moving:
            self._count_anew()

    async def _save(self) -> None:
        await self._metadata.save_job_state(self.name, asdict(self._balance))

    # Counting

    def _looks_uneven(self) -> bool:
        """By the nodes' reports, if there was no round lately."""
        fills = [target.fill for target in self._members.targets(0).values()]
        uneven = len(fills) > 1 and max(fills) - min(fills) > BEGIN_GAP
        return uneven and self._clock() - self._looked_at_s >= LOOK_AGAIN_S

    def _count_anew(self) -> None:
        self._looked_at_s = self._clock()
        self._count_after, self._bytes = 0, Counter()

    async def _count(self, after: int) -> bool:
        """A page of layouts. True if there is more to do."""
        page = await self._mending.layout_loads(after, LAYOUTS_AT_ONCE)
        for load in page:
            for node in load.layout:
                self._bytes[node] += load.shard_bytes
        if len(page) == LAYOUTS_AT_ONCE:
            self._count_after = page[-1].id
            return True
        self._count_after = None
        gap, _, _ = self._extremes()
        self._balance.gap = round(gap, 4)
        self._balance.moving = gap > (END_GAP if self._balance.moving else BEGIN_GAP)
        if not self._balance.moving:
            self._balance.after = ""
        await self._save()
        return self._balance.moving

    def _extremes(self) -> tuple[float, int, int]:
        """How far the fullest and the emptiest active node are apart, and which these are."""
        fills = {
            number: self._bytes[number] / node.report.capacity_bytes
            for number, node in self._members.nodes.items()
            if self._members.state(node) is NodeState.ACTIVE
            and node.report
            and node.report.capacity_bytes
        }
        if len(fills) < 2:
            return 0.0, 0, 0
        fullest, emptiest = max(fills, key=fills.__getitem__), min(fills, key=fills.__getitem__)
        return fills[fullest] - fills[emptiest], fullest, emptiest

    # Moving

    async def _move_some(self) -> bool:
        """Go on with the walk until a few shards have been moved, or a page of segments is done.
        True if the round is not over."""
        balance = self._balance
        after = bytes.fromhex(balance.after)
        page = await self._metadata.segments_after(after, SEGMENTS_AT_ONCE)
        balance.moving = len(page) == SEGMENTS_AT_ONCE
        moved = 0
        for number, stored in enumerate(page, 1):
            gap, fullest, emptiest = self._extremes()
            balance.gap, balance.after = round(gap, 4), str(stored.id)
            if gap <= END_GAP:
                balance.moving = False
                break
            if fullest in stored.layout and emptiest not in stored.layout:
                await self._relieve(fullest, stored)
                moved += 1
            if moved == MOVED_AT_ONCE:
                balance.moving = balance.moving or number < len(page)
                break
        if not balance.moving:
            balance.after = ""
        await self._save()
        return balance.moving

    async def _relieve(self, fullest: int, stored: StoredSegment) -> None:
        """Move a shard away from the fullest node, if it can lie as well elsewhere."""
        try:
            mended = await self._mender.mend(stored, relieved=fullest)
        except SixfoldError as error:
            log.info("rebalancing segment %s: %s", stored.id, error)
            return
        moves = [(a, b) for a, b in zip(stored.layout, mended.layout, strict=False) if a != b]
        for old, new in moves:
            self._bytes[old] -= stored.shard_bytes
            self._bytes[new] += stored.shard_bytes
        self._balance.segments += bool(moves)
        self._balance.bytes += len(moves) * stored.shard_bytes
        await self._throttle.spend(stored.size_bytes)

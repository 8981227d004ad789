"""Rebalance: when nodes differ in how full they are, moves shards from the fullest.

It reckons with what layouts put on nodes, not with what nodes report: there, space comes back only
after deletes and compaction. Repair comes first: while it has work, this job rests.
"""

import logging
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass

from common.errors import SixfoldError
from coordinator.membership import NodeState
from coordinator.mend import Mender
from coordinator.metadata.mending import LayoutLoad
from coordinator.services import Services
from coordinator.throttle import Throttle

log = logging.getLogger(__name__)

# Of the used fractions: from where on it begins to move, and until where it goes on.
BEGIN_GAP, END_GAP = 0.02, 0.005
LOOK_AGAIN_S = 600.0  # after a round: nodes must have reported what it has brought about
SEGMENTS_AT_ONCE = 8


@dataclass(slots=True)
class Balance:
    """What the job shows of itself. `gap` is how far used fractions are apart, by the layouts."""

    moving: bool = False
    gap: float = 0.0
    segments: int = 0
    bytes: int = 0


class RebalanceWorker:
    """The job; see above."""

    name = "rebalance"
    rest_s = 5.0

    def __init__(self, services: Services, throttle: Throttle, clock: Callable[[], float]) -> None:
        self._services, self._throttle, self._clock = services, throttle, clock
        self._members, self._mending = services.cluster.membership, services.metadata.mending
        self._mender = Mender(services)
        self._balance = Balance()
        self._looked_at_s = float("-inf")
        self._loads: list[LayoutLoad] = []  # of this round, still to be looked at
        self._bytes: Counter[int] = Counter()  # what layouts put on each node

    async def step(self) -> bool:
        if (await self._mending.backlog(self._services.codec.k)).is_due:
            return False
        if not self._loads and not await self._begin():
            return False
        gap, fullest, emptiest = self._extremes()
        self._balance.gap = round(gap, 4)
        if gap <= END_GAP or not self._loads:
            await self._end()
            return False
        load = self._loads.pop()
        if fullest in load.layout and emptiest not in load.layout:
            await self._relieve(fullest, load)
        return True

    async def _begin(self) -> bool:
        """A round, if nodes look uneven and there was none lately. False if all is even."""
        fills = [target.fill for target in self._members.targets(0).values()]
        uneven = len(fills) > 1 and max(fills) - min(fills) > BEGIN_GAP
        if not uneven or self._clock() - self._looked_at_s < LOOK_AGAIN_S:
            return False
        self._looked_at_s = self._clock()
        loads = [load async for load in self._mending.all_layout_loads() if load.segments]
        self._bytes = Counter()
        for load in loads:
            for node in load.layout:
                self._bytes[node] += load.shard_bytes
        self._loads = loads
        self._balance.moving = self._extremes()[0] > BEGIN_GAP
        if not self._balance.moving:
            self._loads = []
        return self._balance.moving

    async def _end(self) -> None:
        self._loads, self._balance.moving = [], False
        await self._services.metadata.save_job_state(self.name, asdict(self._balance))

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

    async def _relieve(self, fullest: int, load: LayoutLoad) -> None:
        """Move shards of segments with this layout away from the fullest node."""
        for stored in await self._mending.segments_of_layout(load.id, SEGMENTS_AT_ONCE):
            try:
                mended = await self._mender.mend(stored, away_from=[fullest])
            except SixfoldError as error:
                log.info("rebalancing segment %s: %s", stored.id, error)
                continue
            for node, shards in mended.moved_to.items():
                self._bytes[node] += shards * stored.shard_bytes
                self._bytes[fullest] -= shards * stored.shard_bytes
            self._balance.segments += bool(mended.moved_to)
            self._balance.bytes += mended.written_bytes
            await self._throttle.spend(stored.size_bytes)
        if load.segments > SEGMENTS_AT_ONCE:
            rest = LayoutLoad(load.id, load.layout, load.segments - SEGMENTS_AT_ONCE, 0)
            self._loads.insert(0, rest)  # its turn comes again
        await self._services.metadata.save_job_state(self.name, asdict(self._balance))

"""What nodes lose in a history of the test `bundles`, and how that is made good; and what all of
such a history is made of."""

import random
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

from common.errors import Unreadable
from common.ids import SegmentId, ShardAddress
from coordinator.mend import Mender
from coordinator.metadata import Metadata, StoredSegment
from coordinator.metadata.packing import unpack_layout
from coordinator.write_path import WritePath
from tests.memory_cluster import KeepingStore
from tests.schedules import Gates, Step
from tests.torture.bundle_ledger import Ledger, State
from tests.torture.bundle_storm import Storm
from tests.torture.bundle_world import World

TRIES = 5  # of mending
SOME, MANY = 0.07, 0.25  # shares of COMMITs
NODES_LOST = 3
TOO_MANY = 4
NEEDING = (
    "SELECT content FROM pin WHERE content = ? UNION SELECT p.content FROM pin p "
    "JOIN content_segment cs ON cs.content = p.content WHERE cs.segment = ? UNION "
    "SELECT p.content FROM pin p JOIN content c ON c.id = p.content WHERE c.segment_list = ?"
)


class Losses:
    """`story` tells the steps, in order."""

    def __init__(self, directory: Path, rng: random.Random) -> None:
        self._directory, self._rng = directory, rng
        self.world, self.ledger = World(directory, rng), Ledger(rng)
        self._is_whole = True  # all shards of all that is there are where they should be
        self.story = list[str]()
        self.counts = Counter[str](histories=1)

    @asynccontextmanager
    async def _gated(self, refused: float = 0.0) -> AsyncIterator[Storm]:
        """If so many COMMITs are refused, in disorder; else one step after the other."""
        gates = Gates(self._rng, _look_away)
        gates.in_order, self.world.refused = not refused, refused
        with self.world.gated(gates) as ends:
            storm = Storm(self.world, self.ledger, gates, ends, self._rng)
            yield storm
            gates.in_order, self.world.refused = True, 0.0
            await gates.run(storm.settle())
        self.counts["steps"] += len(gates.done)

    async def _storm(self) -> None:
        self.story.append("storm")
        self.ledger.renew(self._rng)
        async with self._gated(SOME) as storm:
            await storm.gates.run(*storm.everything())
        await self._look()

    async def _look(self) -> None:
        """At everything."""
        async with self._gated() as storm:
            await storm.gates.run(self._look_at_all(storm))

    async def _look_at_all(self, storm: Storm) -> None:
        for content in range(len(self.ledger.contents)):
            await self.ledger.look(content, self._rng.choice(storm.ends)[1])

    async def _lose_nodes(self) -> None:
        if await self._wipe():
            await (self._storm() if self._rng.random() < 0.5 else self._look())
            await self._mend()

    async def _wipe(self) -> bool:
        """Some nodes lose all they have, if all else is whole."""
        if not self._is_whole:
            await self._mend()
        if not self._is_whole:
            return False
        numbers = self._rng.sample(list(self.world.nodes.stores), self._rng.randint(1, NODES_LOST))
        self.story.append(f"nodes {numbers} lose all")
        for number in numbers:
            self.world.nodes.stores[number].records.clear()
        self._is_whole = False
        return True

    async def _mend(self) -> None:
        async with self._gated() as storm:
            await storm.gates.run(self._mend_all(storm))

    async def _mend_all(self, storm: Storm) -> None:
        mender, metadata = Mender(storm.ends[0][0]._services), self.world.coordinators[0]
        self._is_whole = True
        for stored in await metadata.segments_after(b"", 10_000):
            self._is_whole &= await _mended(mender, metadata, stored)

    async def _lose_segment(self) -> None:
        """More of it than can be mended. Whoever has the bytes heals what needs it."""
        rows = self.world.rows(
            "SELECT s.id, s.generation, l.nodes FROM segment s JOIN layout l ON l.id = s.layout "
            "ORDER BY s.id"
        )
        if not rows:
            return
        id_, generation, nodes = self._rng.choice(rows)
        self.story.append(f"segment {id_.hex()[:8]} is lost")
        for index, node in enumerate(unpack_layout(nodes)[:TOO_MANY]):
            address = ShardAddress(SegmentId(id_), generation, index)
            self.world.nodes.stores.get(node, KeepingStore()).records.pop(address, None)
        async with self._gated() as storm:
            await storm.gates.run(self._heal(storm, SegmentId(id_)))
        await self._look()

    async def _heal(self, storm: Storm, lost: SegmentId) -> None:
        writes, reads = self._rng.choice(storm.ends)
        known = await self.world.coordinators[0].find_segment(lost)
        if known is not None:
            with suppress(Unreadable):
                await reads.read_segment(known.stored)
            await reads.settle()
        needing = {id_ for (id_,) in self.world.rows(NEEDING, lost, lost, lost)}
        for content, id_ in enumerate(self.ledger.ids):
            if id_ in needing:
                await self._put_again(storm, content, writes)

    async def _put_again(self, storm: Storm, content: int, writes: WritePath) -> None:
        self.ledger.states[content] = State.MAYBE
        await storm.put(content, writes)
        if self.ledger.states[content] is not State.THERE:
            self.ledger.wrong(content, "it cannot be stored again")


async def _mended(mender: Mender, metadata: Metadata, stored: StoredSegment) -> bool:
    """Or nothing can be done for it."""
    for _ in range(TRIES):
        done = await mender.mend(stored)
        if done.is_whole or (done.hopeless and not done.superseded):
            return True
        stored = await metadata.moved(stored) or stored
    return False


def _look_away(step: Step) -> None:
    pass

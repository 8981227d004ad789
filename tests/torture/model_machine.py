"""What may happen in a history of the store, faults included, which must go as that of a dict."""

import asyncio
from contextlib import suppress
from typing import TypeVar

from hypothesis import strategies as st
from hypothesis.stateful import invariant, rule

from common.errors import FateUnknown, Undurable
from common.failpoints import Point, armed
from coordinator.bundler import SMALL_BYTES
from coordinator.metadata import Wish
from coordinator.metadata.rows import NO_NODE
from coordinator.write_upload import Stored
from tests.torture.model_contents import CONTENTS, IDS, Promise
from tests.torture.model_store import StoreUnderTest
from tests.torture.one_process import (
    COORDINATORS,
    GRACE_S,
    LEAST_NODES,
    NODES,
    SEGMENT_BYTES,
)

T = TypeVar("T")
JOBS = ["collect", "rebundle", "outbox", "sweep", "repair", "rebalance", "scrub"]
which = st.integers(0, len(CONTENTS) - 1)
small = st.sampled_from([i for i, data in enumerate(CONTENTS) if len(data) <= SMALL_BYTES])
fronts = st.integers(0, COORDINATORS - 1)
nodes = st.sampled_from(NODES)


class StoreMachine(StoreUnderTest):
    """One history. No rule has a precondition: those that cannot be followed now do nothing. What
    Hypothesis draws must not hang on the store, which does not take the same turn twice."""

    # What clients do

    @rule(which=which, front=fronts)
    def put(self, which: int, front: int) -> None:
        try:
            stored = self.run(self.store.fronts[front].put(CONTENTS[which]))
        except Undurable:
            assert self.active() < LEAST_NODES
            return
        assert (stored.id, stored.size_bytes) == (IDS[which], len(CONTENTS[which]))
        assert stored.new == (which not in self.present)
        self.acknowledged(which, stored)

    @rule(which=which, other=which)
    def put_two_at_once(self, which: int, other: int) -> None:
        """Through different coordinators; perhaps the same bytes."""

        async def both() -> tuple[Stored | BaseException, Stored | BaseException]:
            first, second = self.store.fronts
            return await asyncio.gather(
                first.put(CONTENTS[which]), second.put(CONTENTS[other]), return_exceptions=True
            )

        for index, outcome in zip((which, other), self.run(both()), strict=True):
            self.answered(index, outcome)

    @rule(some=st.sets(small, min_size=3), front=fronts)
    def put_small_ones_together(self, some: set[int], front: int) -> None:
        """They share a bundle, but for those that are there already."""
        contents = [CONTENTS[which] for which in some]
        outcomes = self.run(self.store.fronts[front].put_together(*contents))
        for which, outcome in zip(some, outcomes, strict=True):
            self.answered(which, outcome)

    def answered(self, which: int, outcome: Stored | BaseException) -> None:
        if isinstance(outcome, Undurable):
            assert self.active() < LEAST_NODES
        elif isinstance(outcome, BaseException):
            raise outcome
        else:
            self.acknowledged(which, outcome)

    def acknowledged(self, which: int, stored: Stored) -> None:
        """From now on it can be read, whatever there was before, and as long as no more goes than
        the answer said may go. Only of rot that nobody has seen yet it could not know: as much less
        may go."""
        self.present.add(which)
        self.doubtful.discard(which)
        self.promised.pop(which, None)
        segments = self.run(self.store.fronts[0].reads.find(IDS[which])).segments
        assert all(self.shards_left(s) + self.unseen(s) >= s.k for s in segments)
        if all(self.shards_left(segment) >= segment.k for segment in segments):
            survives = stored.durability.survives - max(map(self.unseen, segments))
            self.promised[which] = Promise(len(self.faults), survives)
            self.read(which, 0, 0, None)

    @rule(which=which, front=fronts, committed=st.booleans())
    def put_without_an_answer(self, which: int, front: int, committed: bool) -> None:
        """The database takes it or not, and does not say: afterwards it is there or not. (Also when
        COMMIT took effect it need not be: what was committed may be that the lease had run out.)"""

        def lose() -> None:
            raise FateUnknown("the answer to COMMIT was lost")

        point = Point.UPLOAD_COMMITTED if committed else Point.UPLOAD_COMMIT_BEGUN
        with armed(point, lose), suppress(FateUnknown, Undurable):
            self.run(self.store.fronts[front].put(CONTENTS[which]))
        self.present |= self.visible() & {which}

    @rule(which=which, front=fronts)
    def get(self, which: int, front: int) -> None:
        self.read(which, front, 0, None)

    @rule(which=which, front=fronts, start=st.integers(0), length=st.integers(0, 2 * SEGMENT_BYTES))
    def get_range(self, which: int, front: int, start: int, length: int) -> None:
        start %= len(CONTENTS[which]) + 1
        self.read(which, front, start, start + length)

    @rule(which=which, front=fronts)
    def delete(self, which: int, front: int) -> None:
        was_there = self.run(self.store.fronts[front].metadata.unpin(IDS[which]))
        assert was_there == (which in self.present)
        self.present.discard(which)
        self.promised.pop(which, None)
        self.doubtful.discard(which)

    # What befalls the nodes

    @rule(node=nodes)
    def kill(self, node: int) -> None:
        if node in self.store.up:
            self.faults.append(node)
            self.run(self.store.kill(node))

    @rule(node=nodes, forgets=st.booleans(), garbage=st.binary(max_size=40))
    def restart(self, node: int, forgets: bool, garbage: bytes) -> None:
        if node in self.store.up or node in self.removed:
            return
        if forgets:
            self.store.nodes[node].forget_index()
        self.store.nodes[node].tear_tail(garbage)
        self.run(self.store.restart(node))

    @rule(which=which, segment=st.integers(0, 3), index=st.integers(0, 8), bit=st.integers(0))
    def rot(self, which: int, segment: int, index: int, bit: int) -> None:
        """A bit of one shard changes on disk."""
        if which not in self.present:
            return
        manifest = self.run(self.store.fronts[0].reads.find(IDS[which]))
        stored = manifest.segments[segment % len(manifest.segments)]
        node, address = stored.layout[index], stored.address(index)
        rots = node != NO_NODE and (node, address) not in self.flipped
        if rots and self.store.nodes[node].flip(address, bit):
            self.flipped.add((node, address))
            self.faults.append(node)

    # Time, and what is done behind

    @rule(seconds=st.sampled_from([5, 70, GRACE_S + 1, 2000]))
    def pass_time(self, seconds: int) -> None:
        self.run(self.store.pass_time(seconds))

    @rule(front=fronts, job=st.sampled_from(JOBS))
    def work(self, front: int, job: str) -> None:
        self.run(self.store.fronts[front].work(job))
        self.run(self.forget_mended())

    @rule(node=nodes, drains=st.booleans())
    def drain(self, node: int, drains: bool) -> None:
        """Or the opposite."""
        if node in self.removed:
            return
        self.run(self.store.wish(node, Wish.DRAINING if drains else Wish.ACTIVE))
        self.drained = self.drained | {node} if drains else self.drained - {node}

    @rule(node=nodes)
    def scrub(self, node: int) -> None:
        store = self.store.nodes[node].store
        if store is not None:
            self.run(store.scrub_once())

    @rule(node=nodes)
    def compact(self, node: int) -> None:
        store = self.store.nodes[node].store
        if store is not None:
            self.run(store.compact_once())

    # What must hold

    @invariant()
    def visible_is_what_was_put(self) -> None:
        assert self.visible() == self.present

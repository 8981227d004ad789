"""Histories of the store, faults included, that must go as those of a dict.

The dict says which contents are there. Of every segment of them the test works out, from the
faults that it made itself, how many shards can be had: with at least k, reading must succeed.
"""

import asyncio
import shutil
import sys
import tempfile
from collections.abc import Coroutine
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from common.errors import FateUnknown, NotFound, Undurable, Unreadable
from common.failpoints import Point, armed
from common.ids import ShardAddress
from coordinator.metadata import StoredSegment, Wish
from coordinator.metadata.rows import NO_NODE
from coordinator.proof import MISSED_AT_MOST
from coordinator.repair import SEARCH_AGAIN_S
from coordinator.write_upload import Stored
from tests.torture.model_contents import CONTENTS, IDS, Promise, known_bad, lists_in, shards_in
from tests.torture.one_process import (
    COORDINATORS,
    GRACE_S,
    LEAST_NODES,
    NODES,
    SEGMENT_BYTES,
    Store,
)

T = TypeVar("T")
JOBS = ["collect", "outbox", "sweep", "repair", "rebalance", "scrub"]
ZONES = "aaabbbccc"
STEP_S = 60.0  # no step may take longer: a hang is a failure
which = st.integers(0, len(CONTENTS) - 1)
fronts = st.integers(0, COORDINATORS - 1)
nodes = st.sampled_from(NODES)


class StoreMachine(RuleBasedStateMachine):
    """One history. `present` are the contents that must be visible."""

    steps = 0

    def __init__(self) -> None:
        super().__init__()
        self.directory = Path(tempfile.mkdtemp(prefix="sixfold-model-"))
        self.runner = asyncio.Runner()
        self.store = Store(self.directory, ZONES)
        self.present: set[int] = set()
        self.flipped: set[tuple[int, ShardAddress]] = set()  # on which node
        self.faults: list[int] = []  # nodes that went, or a shard of which rotted
        self.promised: dict[int, Promise] = {}
        self.drained: set[int] = set()
        self.removed: set[int] = set()  # nodes that an operator has taken out for good
        self.doubtful: set[int] = set()  # contents that a backup has brought back, but perhaps not
        self.pieces: set[bytes] = set()  # of unfinished uploads, which a rebuild took for contents
        self.run(self.store.start())

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        async def and_settle() -> T:
            async with asyncio.timeout(STEP_S):
                try:
                    return await work
                finally:
                    for front in self.store.fronts:
                        await front.settle()

        type(self).steps += 1
        return self.runner.run(and_settle())

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
            if isinstance(outcome, Undurable):
                assert self.active() < LEAST_NODES
            elif isinstance(outcome, BaseException):
                raise outcome
            else:
                self.acknowledged(index, outcome)

    def acknowledged(self, which: int, stored: Stored) -> None:
        """From now on it can be read, whatever there was before, and as long as no more goes than
        the answer said may go. Only of rot that nobody has seen yet it could not know."""
        self.present.add(which)
        self.doubtful.discard(which)
        self.promised.pop(which, None)
        segments = self.run(self.store.fronts[0].reads.find(IDS[which])).segments
        assert all(self.shards_left(s) + self.unseen(s) >= s.k for s in segments)
        if all(self.shards_left(segment) >= segment.k for segment in segments):
            self.promised[which] = Promise(len(self.faults), stored.durability.survives)
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

    @precondition(lambda self: len(self.store.up) < len(self.members))
    @rule(node=nodes, forgets=st.booleans(), garbage=st.binary(max_size=40))
    def restart(self, node: int, forgets: bool, garbage: bytes) -> None:
        if node in self.store.up or node in self.removed:
            return
        if forgets:
            self.store.nodes[node].forget_index()
        self.store.nodes[node].tear_tail(garbage)
        self.run(self.store.restart(node))

    @precondition(lambda self: self.present)
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

    async def forget_mended(self) -> None:
        """What repair has written anew is in order again."""
        nodes = self.store.nodes
        self.flipped = {
            (node, address)
            for node, address in self.flipped
            if node not in self.store.up or not await nodes[node].has(address)
        }

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

    def visible(self) -> set[int]:
        async def find() -> set[int]:
            find_content = self.store.fronts[0].metadata.find_content
            found = await asyncio.gather(*(find_content(id_) for id_ in IDS))
            return {index for index, manifest in enumerate(found) if manifest is not None}

        return self.run(find())

    def read(self, which: int, front: int, start: int, end: int | None) -> None:
        try:
            data = self.run(self.store.fronts[front].get(IDS[which], start, end))
        except NotFound:
            assert which not in self.present
        except Unreadable as error:
            assert not self.run(self.must_be_readable(which)), error
        else:
            assert which in self.present
            assert data == CONTENTS[which][start:end], "wrong bytes"

    async def must_be_readable(self, which: int) -> bool:
        """Each of its segments has enough shards that no fault has touched; or fewer nodes had a
        fault since it was acknowledged than may fail."""
        if which in self.doubtful:
            return False
        manifest = await self.store.fronts[0].reads.find(IDS[which])
        left = all(self.shards_left(segment) >= segment.k for segment in manifest.segments)
        promise = self.promised.get(which)
        if left or promise is None:
            return left
        return len(set(self.faults[promise.after :])) <= promise.survives

    @property
    def members(self) -> list[int]:
        """All nodes, up or not, that belong to the cluster."""
        return [node for node in NODES if node not in self.removed]

    def active(self) -> int:
        """How many nodes can take new shards."""
        return len(set(self.store.up) - self.drained)

    def shards_left(self, segment: StoredSegment) -> int:
        """Which no fault of ours has touched."""
        up = self.store.up
        return sum(
            node in up and (node, segment.address(index)) not in self.flipped
            for index, node in enumerate(segment.layout)
        )

    def unseen(self, segment: StoredSegment) -> int:
        """How many of its shards have rotted on nodes that are there, and nothing has looked. With
        more than one node away, an upload looks itself."""
        if sum(node in self.store.up for node in segment.layout) < segment.n - MISSED_AT_MOST:
            return 0
        known = known_bad(self.store.database, segment)
        return sum(
            node in self.store.up
            and (node, segment.address(index)) in self.flipped
            and not known >> index & 1
            for index, node in enumerate(segment.layout)
        )

    def teardown(self) -> None:
        try:
            if sys.exception() is None:  # else the history has ended badly already
                self.everything_comes_back()
        finally:
            self.runner.run(self.store.close())
            self.runner.close()
            shutil.rmtree(self.directory)

    def everything_comes_back(self) -> None:
        """With all nodes up and the jobs idle, all is whole that can be, and no shard is left that
        nothing refers to."""
        for node in self.members:
            if node not in self.store.up:
                self.run(self.store.restart(node))
            self.run(self.store.wish(node, Wish.ACTIVE))
        for index in range(len(CONTENTS)):
            self.read(index, index % COORDINATORS, 0, None)
        can_be_read = [i for i in self.present if self.run(self.must_be_readable(i))]
        self.run(self.until_idle())
        for index in self.present:
            self.read(index, 0, 0, None)
        for index in can_be_read:
            assert self.run(self.is_whole(index))
        self.nothing_is_left_over()

    async def until_idle(self) -> None:
        """What one job leaves, another finds a grace period later, or when repair goes through all
        layouts again."""
        for _ in range(4):
            await self.store.pass_time(GRACE_S + int(SEARCH_AGAIN_S))
            for front in self.store.fronts:
                for job in front.jobs:
                    await front.work(job)
        await self.forget_mended()

    async def is_whole(self, which: int) -> bool:
        """All shards of it are good, on all nodes."""
        manifest = await self.store.fronts[0].reads.find(IDS[which])
        if any(set(segment.layout) != set(self.members) for segment in manifest.segments):
            return False
        held = [
            await self.store.nodes[node].has(segment.address(index))
            for segment in manifest.segments
            for index, node in enumerate(segment.layout)
        ]
        return all(held)

    def nothing_is_left_over(self) -> None:
        """Neither segments in the database nor shards on nodes."""
        referred = shards_in(self.store.database)
        needed = lists_in(self.store.database) | self.run(self.segments()) | self.pieces
        assert {bytes(address.segment) for _, address in referred} == needed
        for number in self.members:
            held = {(number, info.address) for info in self.run(self.store.nodes[number].shards())}
            assert held - referred == set(), "orphans"

    async def segments(self) -> set[bytes]:
        """The ids of all that the contents are cut into."""
        reads = self.store.fronts[0].reads
        manifests = [await reads.find(IDS[index]) for index in self.present]
        return {bytes(segment.id) for manifest in manifests for segment in manifest.segments}

"""A store under test, and what it is judged by: what must be readable, and what must be left of it.

The dict says which contents are there. Of every segment of them the test works out, from the
faults that it made itself, how many shards can be had: with at least k, reading must succeed.
"""

import asyncio
import shutil
import sys
import tempfile
from collections.abc import Coroutine
from pathlib import Path
from typing import Any, TypeVar

from hypothesis.stateful import RuleBasedStateMachine

from common.errors import NotFound, Unreadable
from common.ids import ShardAddress
from coordinator.metadata import StoredSegment, Wish
from coordinator.proof import MISSED_AT_MOST
from coordinator.repair import SEARCH_AGAIN_S
from tests.torture.model_contents import (
    CONTENTS,
    IDS,
    Promise,
    known_bad,
    lists_in,
    shards_in,
    waiting_deletes,
)
from tests.torture.one_process import (
    COORDINATORS,
    GRACE_S,
    NODES,
    Store,
)

T = TypeVar("T")
ZONES = "aaabbbccc"
STEP_S = 60.0  # no step may take longer: a hang is a failure
LEAST_ROUNDS, MOST_ROUNDS = 4, 12  # of all jobs


class StoreUnderTest(RuleBasedStateMachine):
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

    async def forget_mended(self) -> None:
        """What repair has written anew is in order again."""
        nodes = self.store.nodes
        self.flipped = {
            (node, address)
            for node, address in self.flipped
            if node not in self.store.up or not await nodes[node].has(address)
        }

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
        layouts again; a bundle that most is deleted of has to be moved first."""
        for number in range(MOST_ROUNDS):
            await self.store.pass_time(GRACE_S + int(SEARCH_AGAIN_S))
            for front in self.store.fronts:
                for job in front.jobs:
                    await front.work(job)
            if number + 1 >= LEAST_ROUNDS and not waiting_deletes(self.store.database):
                break
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

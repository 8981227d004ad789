"""Rebuilds of the metadata that come upon each other, or upon an operator who allows deletes: what
one has listed is believed only if nothing was deleted since."""

import os
from collections.abc import Awaitable, Callable

import pytest

from common.errors import Conflict, NodeUnreachable
from coordinator.metadata import Metadata
from coordinator.read_path import ReadPath
from coordinator.write_path import WritePath
from tests.memory_cluster import MemoryCluster, Sweeper, get, put
from tests.metadata_parts import Clock, execute
from tests.test_rebuild import Paused, rebuild

Ends = tuple[WritePath, ReadPath]
Act = Callable[[], Awaitable[None]]


class Bed:
    """A database, and nodes with a content that is past its grace period."""

    def __init__(self, metadata: Metadata, nodes: MemoryCluster, ends: Ends, clock: Clock) -> None:
        self.metadata, self.nodes, (self.writes, self.reads) = metadata, nodes, ends
        self.sweeper, self.data = Sweeper(metadata, nodes, clock), os.urandom(4096)

    async def fill(self) -> None:
        await put(self.writes, b"kept")
        await self.metadata.unpin(await put(self.writes, self.data))
        await self.sweeper.later()

    async def delete(self) -> None:
        assert await self.metadata.collect(10) == 1
        await self.sweeper.outbox()
        assert len(self.nodes.shards()) == 9

    async def run(self, meanwhile: Act) -> None:
        """Once it has listed all nodes, something else happens."""
        await Paused(self.metadata, self.nodes, self.reads, meanwhile).run()

    async def is_stored(self) -> None:
        """What is acknowledged can be read."""
        assert await get(self.reads, await put(self.writes, self.data)) == self.data


@pytest.fixture
async def bed(metadata: Metadata, nodes: MemoryCluster, ends: Ends, clock: Clock) -> Bed:
    bed = Bed(metadata, nodes, ends, clock)
    await bed.fill()
    return bed


async def fails() -> None:
    raise NodeUnreachable("a node failed while it was listed")


async def in_time() -> None:
    """Nothing happens."""


async def test_what_was_deleted_while_an_operator_allowed_it_does_not_come_back(bed: Bed) -> None:
    async def meanwhile() -> None:
        await bed.metadata.allow_deletes()
        await bed.delete()
        await bed.metadata.stop_deletes("on second thoughts")

    with pytest.raises(Conflict, match="rebuild it again"):
        await bed.run(meanwhile)
    await bed.is_stored()
    assert await bed.metadata.deletes_stopped() == "on second thoughts"


async def test_what_was_deleted_between_two_later_runs_does_not_come_back(bed: Bed) -> None:
    """The lease of the first had run out, so they did not know that it goes on."""

    async def meanwhile() -> None:
        await execute(bed.metadata, "UPDATE session SET expires_at = 0")
        await bed.metadata._begin_session()
        with pytest.raises(NodeUnreachable):
            await bed.run(fails)
        await bed.delete()
        await bed.metadata.begin_rebuild()

    with pytest.raises(Conflict, match="rebuild it again"):
        await bed.run(meanwhile)
    assert "is being rebuilt" in await bed.metadata.deletes_stopped()  # for the third
    await bed.is_stored()


async def test_a_second_run_is_refused_and_the_first_goes_on(bed: Bed) -> None:
    async def meanwhile() -> None:
        with pytest.raises(Conflict, match="already"):
            await bed.run(in_time)
        assert await bed.metadata.collect(10) == 0

    await bed.run(meanwhile)
    assert await bed.metadata.deletes_stopped() == ""
    await bed.is_stored()


async def test_what_a_run_that_was_cut_short_has_left_goes_with_the_next(
    metadata: Metadata, nodes: MemoryCluster, ends: Ends
) -> None:
    await metadata.begin_rebuild()
    await metadata.stop_deletes("an operator looks at something")
    await execute(metadata, "UPDATE session SET expires_at = 0")
    await metadata._begin_session()
    await rebuild(metadata, nodes, ends[1])
    assert await metadata.deletes_stopped() == "an operator looks at something"

"""A rebuild of the metadata looks into quarantine too: the sweep may have gone by a database that
did not know what lies there."""

import os
from functools import partial

import pytest

from common.errors import NotFound, StorageFull
from common.ids import ContentId
from coordinator.metadata import Metadata
from coordinator.metadata.sessions import doubt
from coordinator.read_path import ReadPath
from coordinator.write_path import WritePath
from tests.memory_cluster import MemoryCluster, Sweeper, get, put
from tests.metadata_parts import Clock
from tests.stores import make_shard
from tests.test_rebuild import forget_everything, rebuild

Ends = tuple[WritePath, ReadPath]
DATA = os.urandom(3000)


async def lose(metadata: Metadata) -> None:
    """The database: another one is in its place, and nodes have shown that they knew more."""
    await forget_everything(metadata)
    await metadata._write(partial(doubt, until_epoch=metadata.session))


async def condemn(sweeper: Sweeper) -> None:
    """What the database does not know goes to the outbox, past its grace period."""
    for _ in range(2):
        await sweeper.later()
        await sweeper.run()


async def condemned(metadata: Metadata, ends: Ends, sweeper: Sweeper) -> ContentId:
    """A content that the database has lost, and whose shards are in the outbox as orphans."""
    id_ = await put(ends[0], DATA)
    await lose(metadata)
    await condemn(sweeper)
    return id_


def kept(nodes: MemoryCluster) -> int:
    """How many shards are in quarantine."""
    return sum(len(store.kept) for store in nodes.stores.values())


@pytest.fixture
def sweeper(metadata: Metadata, nodes: MemoryCluster, clock: Clock) -> Sweeper:
    return Sweeper(metadata, nodes, clock)


async def test_what_was_taken_for_orphans_comes_back(
    metadata: Metadata, nodes: MemoryCluster, ends: Ends, sweeper: Sweeper
) -> None:
    id_ = await condemned(metadata, ends, sweeper)
    await sweeper.outbox()
    assert kept(nodes) == 9
    await rebuild(metadata, nodes, ends[1])
    assert await get(ends[1], id_) == DATA
    assert kept(nodes) == 0
    await condemn(sweeper)
    await sweeper.outbox()
    assert await get(ends[1], id_) == DATA


async def test_what_is_about_to_go_there_comes_back_too(
    metadata: Metadata, nodes: MemoryCluster, ends: Ends, sweeper: Sweeper
) -> None:
    """A node was away when the others were told."""
    id_ = await condemned(metadata, ends, sweeper)
    nodes.away.add(3)
    await sweeper.outbox()
    assert kept(nodes) == 8
    nodes.away.clear()
    await rebuild(metadata, nodes, ends[1])
    await sweeper.outbox()
    assert await get(ends[1], id_) == DATA
    assert len(nodes.shards()) == 9


async def test_a_node_without_room_holds_up_nothing(
    metadata: Metadata, nodes: MemoryCluster, ends: Ends, sweeper: Sweeper,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    id_ = await condemned(metadata, ends, sweeper)
    await sweeper.outbox()

    async def full(addresses: object) -> int:
        raise StorageFull("no room")

    monkeypatch.setattr(nodes.stores[3], "restore", full)
    await rebuild(metadata, nodes, ends[1])
    assert await get(ends[1], id_) == DATA
    assert kept(nodes) == 1


async def test_what_nobody_can_read_stays_unknown(
    metadata: Metadata, nodes: MemoryCluster, ends: Ends, sweeper: Sweeper
) -> None:
    """As the shards of a node that came back with an old directory: else each would be a content
    that is lost."""
    await nodes.stores[1].append([make_shard(8, 5, metadata.new_generation())])
    await lose(metadata)
    await condemn(sweeper)
    await sweeper.outbox()
    assert kept(nodes) == 1
    await rebuild(metadata, nodes, ends[1])
    assert kept(nodes) == 0
    assert (await metadata.counts())["segment"] == 0


@pytest.mark.parametrize("was_lost", [False, True])
@pytest.mark.parametrize("sent", [False, True])
async def test_what_the_right_database_took_for_orphans_stays_away(
    metadata: Metadata, nodes: MemoryCluster, ends: Ends, sweeper: Sweeper,
    sent: bool, was_lost: bool,
) -> None:  # fmt: skip
    """Also if it was filled from all nodes before. It may be a copy of what was deleted since."""
    id_ = await put(ends[0], DATA)
    if was_lost:
        await lose(metadata)
        await rebuild(metadata, nodes, ends[1])
    await forget_everything(metadata)
    await condemn(sweeper)
    if sent:
        await sweeper.outbox()
    await rebuild(metadata, nodes, ends[1])
    with pytest.raises(NotFound):
        await get(ends[1], id_)
    await sweeper.outbox()
    assert kept(nodes) == 9

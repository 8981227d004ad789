"""The sweep and the other jobs where something is wrong: nodes that fail, lie or come back old, and
orphans that cannot be true."""

import os
from collections.abc import AsyncIterator

import pytest

from common.errors import NodeUnreachable, NotFound
from common.ids import ShardAddress
from common.shards import ShardInfo, ShardStore
from coordinator.deleting import CollectWorker
from coordinator.metadata import Metadata, sweeping
from coordinator.metadata.sweeping import Listing
from coordinator.read_path import ReadPath
from coordinator.write_path import WritePath
from tests.memory_cluster import MemoryCluster, Sweeper, get, leave_orphans, put
from tests.metadata_parts import GRACE_S, Clock
from tests.stores import make_shard


class BrokenListing:
    """Breaks off after the first shard."""

    def __init__(self, store: ShardStore) -> None:
        self._store = store

    def __getattr__(self, name: str) -> object:
        return getattr(self._store, name)

    async def list(self, after: ShardAddress | None = None) -> AsyncIterator[ShardInfo]:
        async for info in self._store.list(after):
            yield info
            break
        raise NodeUnreachable("gone in the middle")


@pytest.mark.parametrize("fault", ["away", "breaks off", "does not answer"])
async def test_an_error_is_never_an_absence(
    metadata: Metadata, nodes: MemoryCluster, sweeper: Sweeper, ends: tuple[WritePath, ReadPath],
    monkeypatch: pytest.MonkeyPatch, fault: str,
) -> None:  # fmt: skip
    async def refuse(*args: object) -> None:
        raise NodeUnreachable("no answer")

    for _ in range(3):
        await put(ends[0], os.urandom(100))
    if fault == "away":
        nodes.away.add(2)
    elif fault == "breaks off":
        monkeypatch.setitem(nodes.stores, 2, BrokenListing(nodes.stores[2]))
    else:
        nodes.stores[2].records.clear()
        monkeypatch.setattr(nodes.stores[2], "read", refuse)
    await sweeper.run()
    assert (await metadata.counts())["repair_queue"] == 0
    state = (await metadata.job_states())["sweep"].state
    assert (state["node"], state["passes"]) == (0, 1)  # the others were swept


async def test_too_many_orphans_stop_all_deletion(
    metadata: Metadata, nodes: MemoryCluster, sweeper: Sweeper, ends: tuple[WritePath, ReadPath],
    clock: Clock,
) -> None:  # fmt: skip
    doomed = await put(ends[0], os.urandom(100))
    await leave_orphans(metadata, nodes, sweeping.FEW_ORPHANS + 1)
    await metadata.unpin(doomed)
    await sweeper.later()
    before = nodes.shards()
    await sweeper.run()
    assert "nothing refers to 101 of the 102 shards of node-1" in await metadata.deletes_stopped()
    for _ in range(2):
        await sweeper.later()
        await sweeper.run()
        await CollectWorker(metadata, nodes.cluster).step()
        await sweeper.outbox()
    assert nodes.shards() == before
    assert await metadata.allow_deletes()  # the operator has looked
    for _ in range(2):
        await sweeper.later()
        await sweeper.run()
    assert await metadata.deletes_stopped() == ""
    await sweeper.outbox()
    assert len(nodes.stores[1].kept) == sweeping.FEW_ORPHANS + 1


async def test_few_orphans_are_no_alarm_however_large_their_share(
    metadata: Metadata, nodes: MemoryCluster, sweeper: Sweeper,
) -> None:  # fmt: skip
    await leave_orphans(metadata, nodes, sweeping.FEW_ORPHANS)
    await sweeper.later()
    await sweeper.run()
    assert await metadata.deletes_stopped() == ""


async def test_orphans_are_too_many_above_one_percent(
    metadata: Metadata, nodes: MemoryCluster, sweeper: Sweeper,
) -> None:  # fmt: skip
    await leave_orphans(metadata, nodes, 150)
    await sweeper.later()
    sweep, addresses = metadata.sweeping, sorted(nodes.stores[1].records)
    assert await sweep.note_orphans(Listing(1, None, None, addresses)) == 150
    await sweep.look_at_share(1, 15_000)
    assert await metadata.deletes_stopped() == ""
    await sweep.look_at_share(1, 14_999)
    assert await metadata.deletes_stopped() == (
        "nothing refers to 150 of the 14999 shards of node-1: more than 1 %"
    )


async def test_shards_of_a_session_that_the_database_cannot_know(
    metadata: Metadata, nodes: MemoryCluster, sweeper: Sweeper,
) -> None:  # fmt: skip
    await nodes.stores[1].append([make_shard(8, 1, (metadata.session + 1000) << 32)])
    await sweeper.later()
    await sweeper.run()
    assert "above the epoch" in await metadata.deletes_stopped()
    assert await sweeper.orphans_noted() == 0


async def test_nothing_is_swept_or_deleted_before_the_nodes_have_reported(
    metadata: Metadata, nodes: MemoryCluster, sweeper: Sweeper, clock: Clock,
    ends: tuple[WritePath, ReadPath],
) -> None:  # fmt: skip
    id_ = await put(ends[0], os.urandom(100))
    await metadata.unpin(id_)
    clock.now_s += GRACE_S
    nodes.silent.add(3)
    assert not await CollectWorker(metadata, nodes.cluster).step()
    assert (await metadata.counts())["segment"] == 1
    assert not await sweeper.worker.step()
    assert await metadata.job_states() == {}
    await metadata.collect(10)
    await sweeper.outbox()
    assert {node for node, _ in nodes.shards()} == {3}  # the others have reported
    nodes.silent.clear()
    await sweeper.outbox()
    assert nodes.shards() == set()


async def test_deletes_of_a_node_that_was_removed_are_forgotten(
    metadata: Metadata, nodes: MemoryCluster, sweeper: Sweeper, ends: tuple[WritePath, ReadPath],
    clock: Clock,
) -> None:  # fmt: skip
    id_ = await put(ends[0], os.urandom(100))
    await metadata.unpin(id_)
    clock.now_s += GRACE_S
    await metadata.collect(10)
    nodes.away.update({2, 3})
    for _ in range(2):
        await sweeper.outbox()
    assert (await metadata.counts())["outbox_delete"] == 2  # they wait, and hold up no other
    await metadata._write(lambda sql: sql.run("UPDATE node SET wish = 'removed' WHERE number = 2"))
    await sweeper.outbox()
    assert (await metadata.counts())["outbox_delete"] == 1


async def test_a_node_that_comes_back_old_resurrects_nothing(
    metadata: Metadata, nodes: MemoryCluster, sweeper: Sweeper, ends: tuple[WritePath, ReadPath],
    clock: Clock,
) -> None:  # fmt: skip
    """Its directory was restored from a snapshot: it holds what was deleted since and lacks what
    was written."""
    writes, reads = ends
    gone, kept = os.urandom(5000), os.urandom(5000)
    deleted, stays = await put(writes, gone), await put(writes, kept)
    snapshot = dict(nodes.stores[5].records)
    young = await put(writes, b"written after" * 40)
    await metadata.unpin(deleted)
    await sweeper.later()
    await metadata.collect(10)
    await sweeper.outbox()
    nodes.stores[5].records = snapshot
    again = await put(writes, gone)
    assert again == deleted
    for id_, data in ((stays, kept), (young, b"written after" * 40), (again, gone)):
        assert await get(reads, id_) == data
    await metadata.unpin(again)
    with pytest.raises(NotFound):
        await reads.find(deleted)
    for _ in range(3):
        await sweeper.later()
        await metadata.collect(10)
        await sweeper.run()
        await sweeper.outbox()
    referred = set[tuple[int, ShardAddress]]()
    for id_ in (stays, young):
        manifest = await reads.find(id_)
        for segment in manifest.segments:
            referred |= {(n, segment.address(i)) for i, n in enumerate(segment.layout)}
    lists = {a for _, a in nodes.shards() if a.segment not in {r.segment for _, r in referred}}
    assert len({address.segment for address in lists}) == 1  # the segment list of `stays`
    lost = referred - nodes.shards()
    assert lost == {shard for shard in referred if shard[0] == 5 and shard[1] not in snapshot}
    assert (await metadata.counts())["repair_queue"] == 1
    for id_, data in ((stays, kept), (young, b"written after" * 40)):
        assert await get(reads, id_) == data

"""The outbox: what a paused process still does must not hit what others have done since."""

import asyncio
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from common.ids import ContentId, ShardAddress
from coordinator.deleting import BATCH, OutboxWorker
from coordinator.jobs import run_worker
from coordinator.metadata import OUTBOX, DeleteReason, Metadata, ShardsOnNode, Wish
from coordinator.metadata.rows import UNUSED_S
from shardd.store import VolumeStore
from tests.memory_cluster import KeepingStore, MemoryCluster
from tests.metadata_parts import due_deletes, finish_deletes, segment, seize_lease
from tests.reports import incoming
from tests.torture.one_process import Direct, Store

Both = tuple[Metadata, Metadata]


async def test_who_finishes_late_finishes_nobody_elses_delete(metadata: Metadata) -> None:
    """It was paused after its node's answer; another has done the same and finished it."""
    first, later = segment(metadata), segment(metadata)
    await metadata.add_deletes([ShardsOnNode(1, (first.address(0),))], DeleteReason.DOOMED)
    done = await due_deletes(metadata)
    await finish_deletes(metadata, done)
    await metadata.add_deletes([ShardsOnNode(2, (later.address(0),))], DeleteReason.DOOMED)
    await finish_deletes(metadata, done)
    assert [row.shards.addresses for row in await due_deletes(metadata)] == [(later.address(0),)]


async def test_only_the_holder_of_the_lease_sees_what_is_due(both: Both) -> None:
    a, b = both
    await a.add_deletes([ShardsOnNode(1, (segment(a).address(0),))], DeleteReason.DOOMED)
    assert (await a.due_deletes(1, 10)).rows == []
    await a.take_lease(OUTBOX, 15)
    before = await a.due_deletes(1, 10)
    assert (await b.due_deletes(1, 10)).rows == []
    await seize_lease(b)
    after = await b.due_deletes(1, 10)
    assert (await a.due_deletes(1, 10)).rows == []
    assert after.rows == before.rows
    assert after.epoch > before.epoch


async def test_only_who_held_the_lease_all_the_time_finishes(both: Both) -> None:
    """Whoever held it in between may have deletes on their way that the node has not seen."""
    a, b = both
    await a.add_deletes([ShardsOnNode(1, (segment(a).address(0),))], DeleteReason.DOOMED)
    await seize_lease(a)
    due = await a.due_deletes(1, 10)
    await seize_lease(b)
    assert not await a.finish_deletes(due)
    await seize_lease(a)
    assert not await a.finish_deletes(due)
    again = await a.due_deletes(1, 10)
    assert again.rows == due.rows
    assert await a.finish_deletes(again)
    assert (await a.counts())["outbox_delete"] == 0


class Stopped(Direct):
    """Its deletes are on their way until they are let go."""

    sent: asyncio.Queue[int] = asyncio.Queue()

    def __init__(self, store: VolumeStore, go: asyncio.Event) -> None:
        super().__init__(store)
        self._go = go

    async def delete(self, addresses: Sequence[ShardAddress], epoch: int) -> None:
        self.sent.put_nowait(epoch)
        await self._go.wait()
        await super().delete(addresses, epoch)


async def test_a_delete_that_was_long_on_its_way_does_not_hit_what_repair_put_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its sender was stopped behind its last look at the clock. Meanwhile another one has done the
    same, and the place was free to be used again."""
    store, go = Store(tmp_path), asyncio.Event()
    await store.start()
    first, second = store.fronts
    data = random.Random(1).randbytes(50_000)
    id_ = (await first.put(data)).id
    moved = (1, 2, 3, 4)
    for node in moved:
        await store.wish(node, Wish.DRAINING)
    await second.work("repair")
    for node in moved:
        await store.wish(node, Wish.ACTIVE)
    monkeypatch.setattr(first.cluster, "direct", lambda number, of: Stopped(of, go))
    stopped = asyncio.create_task(first.work("outbox"))
    for _ in moved:
        await Stopped.sent.get()
    await second.work("outbox")
    await store.pass_time(UNUSED_S + 1)
    await second.metadata._begin_session()
    await second.work("repair")
    assert await missing(store, id_) == []
    go.set()
    await stopped
    assert await missing(store, id_) == []
    await store.close()


async def missing(store: Store, id_: ContentId) -> list[ShardAddress]:
    """What the layout names and nodes do not have."""
    (stored,) = (await store.fronts[1].reads.find(id_)).segments
    held = {n: {info.address for info in await node.shards()} for n, node in store.nodes.items()}
    places = enumerate(stored.layout)
    return [stored.address(i) for i, node in places if stored.address(i) not in held[node]]


class SlowStore(KeepingStore):
    """Answers no delete before it is let go."""

    def __init__(self) -> None:
        super().__init__()
        self.asked, self.given_up, self.go = asyncio.Event(), asyncio.Event(), asyncio.Event()
        self.asked_now = 0

    async def delete(self, addresses: Sequence[ShardAddress], epoch: int | None = None) -> None:
        self.asked_now += 1
        self.asked.set()
        try:
            await self.go.wait()
        except asyncio.CancelledError:
            self.given_up.set()
            raise
        await super().delete(addresses, epoch)


@dataclass
class Bed:
    """The outbox of nodes 1, which is slow, and 2. It looks for more without a rest."""

    metadata: Metadata
    nodes: MemoryCluster
    slow: SlowStore
    worker: OutboxWorker

    async def add(self, node: int, count: int = 1) -> None:
        for _ in range(count):
            shards = ShardsOnNode(node, (segment(self.metadata).address(0),))
            await self.metadata.add_deletes([shards], DeleteReason.DOOMED)

    async def waiting(self) -> dict[int, int]:
        """How many rows wait, by node."""
        query = "SELECT node, count(*) FROM outbox_delete GROUP BY node"
        return dict(await self.metadata._read(lambda sql: sql.rows(query)))


@pytest.fixture
async def bed(metadata: Metadata) -> Bed:
    slow = SlowStore()
    nodes = MemoryCluster(2, lambda number: slow if number == 1 else KeepingStore())
    for number in nodes.stores:
        await metadata.save_report(incoming(number))
    await seize_lease(metadata)
    worker = OutboxWorker(metadata, nodes.cluster)
    worker.rest_s = 0.001
    return Bed(metadata, nodes, slow, worker)


async def test_a_slow_node_holds_up_no_other(bed: Bed) -> None:
    """However much there is for them, and also what comes while it still has not answered."""
    await bed.add(1)
    await bed.add(2, BATCH + 1)
    step = asyncio.create_task(bed.worker.step())
    await bed.slow.asked.wait()
    for _ in range(3):
        await bed.add(2)
        while await bed.waiting() != {1: 1}:
            await asyncio.sleep(0.001)
    assert bed.slow.asked_now == 1
    bed.slow.go.set()
    await step
    assert await bed.waiting() == {}


async def test_a_node_that_fails_holds_up_no_other_and_waits_for_its_turn(bed: Bed) -> None:
    bed.nodes.away.add(2)
    await bed.add(1)
    await bed.add(2)
    step = asyncio.create_task(bed.worker.step())
    await bed.slow.asked.wait()
    bed.slow.go.set()
    assert not await step
    assert await bed.waiting() == {2: 1}
    bed.nodes.away.clear()
    await bed.worker.step()
    assert await bed.waiting() == {}


async def test_the_job_counts_what_it_did_and_nothing_while_there_is_nothing_to_do(
    bed: Bed,
) -> None:
    await bed.worker.step()
    assert await bed.metadata.job_states() == {}
    bed.slow.go.set()
    await bed.add(1)
    await bed.add(2, 3)
    orphan = ShardsOnNode(2, (segment(bed.metadata).address(0),))
    await bed.metadata.add_deletes([orphan], DeleteReason.ORPHAN)
    assert (await bed.metadata.waiting())[OUTBOX] == 5
    await bed.worker.step()
    said = (await bed.metadata.job_states())[OUTBOX]
    assert said.state == {"deleted": 4, "quarantined": 1}
    assert (await bed.metadata.waiting())[OUTBOX] == 0


async def test_what_nodes_are_asked_ends_with_the_job(bed: Bed) -> None:
    await bed.add(1)
    job = asyncio.create_task(run_worker(bed.worker, bed.metadata, 0.001))
    await bed.slow.asked.wait()
    job.cancel()
    await bed.slow.given_up.wait()
    await asyncio.gather(job, return_exceptions=True)
    assert await bed.waiting() == {1: 1}

"""The sweep: what nothing refers to goes, what is referred to stays, whatever happens meanwhile."""

import asyncio
import os

import pytest

from coordinator import sweep
from coordinator.metadata import DeleteReason, Metadata, ShardsOnNode, sweeping
from coordinator.read_path import ReadPath
from coordinator.sweep import SweepWorker
from coordinator.wanted import want_pass
from coordinator.write_path import WritePath
from tests.memory_cluster import MemoryCluster, Sweeper, get, leave_orphans, put
from tests.metadata_parts import GRACE_S, Clock, due_deletes


async def test_an_orphan_goes_to_quarantine_after_two_listings_a_grace_apart(
    metadata: Metadata, nodes: MemoryCluster, sweeper: Sweeper, clock: Clock,
) -> None:  # fmt: skip
    await leave_orphans(metadata, nodes)
    await sweeper.later()
    orphans = set(nodes.stores[1].records)
    for _ in range(2):
        await sweeper.run()
        assert await due_deletes(metadata) == []
    clock.now_s += GRACE_S - 1
    await metadata._begin_session()
    await sweeper.run()
    assert await due_deletes(metadata) == []
    clock.now_s += 1
    await sweeper.run()
    assert [row.why for row in await due_deletes(metadata)] == [DeleteReason.ORPHAN]
    await sweeper.outbox()
    assert set(nodes.stores[1].kept) == orphans
    assert nodes.stores[1].deleted == []
    assert nodes.shards() == set()
    assert await due_deletes(metadata) == []


async def test_what_is_referred_to_stays(
    metadata: Metadata, nodes: MemoryCluster, sweeper: Sweeper, ends: tuple[WritePath, ReadPath],
) -> None:  # fmt: skip
    writes, reads = ends
    contents = {await put(writes, data): data for data in map(os.urandom, (0, 1, 4096, 20_000))}
    before = nodes.shards()
    for _ in range(3):
        await sweeper.later()
        await sweeper.run()
    await sweeper.outbox()
    assert nodes.shards() == before
    for id_, data in contents.items():
        assert await get(reads, id_) == data
    assert (await metadata.counts())["repair_queue"] == 0


async def test_shards_of_a_live_session_stay(
    metadata: Metadata, nodes: MemoryCluster, sweeper: Sweeper, clock: Clock
) -> None:
    await leave_orphans(metadata, nodes)
    for _ in range(GRACE_S // 30 + 2):
        clock.now_s += 30
        await metadata._write(lambda sql: sql.run("UPDATE session SET expires_at = {now} + 60"))
        await sweeper.run()
    assert (await sweeper.orphans_noted(), await due_deletes(metadata)) == (0, [])


async def test_an_orphan_that_is_referred_to_in_between_is_forgotten(
    metadata: Metadata, nodes: MemoryCluster, sweeper: Sweeper, ends: tuple[WritePath, ReadPath],
) -> None:  # fmt: skip
    """Repair puts a shard on a node first and into the layout after."""
    id_ = await put(ends[0], b"x" * 500)
    (stored,) = (await ends[1].find(id_)).segments
    await nodes.stores[1].append([nodes.stores[stored.layout[3]].records[stored.address(3)]])
    await sweeper.later()
    moved = list(stored.layout)
    moved[3], moved[stored.layout.index(1)] = 1, stored.layout[3]
    await sweeper.run()
    assert await sweeper.orphans_noted() == 1
    nodes.stores[1].records.pop(stored.address(stored.layout.index(1)))  # else it lies there twice
    await metadata._write(
        lambda sql: sql.run(
            "UPDATE layout SET nodes = ?", b"".join(n.to_bytes(2, "big") for n in moved)
        )
    )
    await sweeper.later()
    await sweeper.run()
    assert [row.shards for row in await due_deletes(metadata)] == []
    assert (1, stored.address(3)) in nodes.shards()


async def test_a_reference_that_comes_after_the_last_look_wins(
    metadata: Metadata,
    nodes: MemoryCluster,
    sweeper: Sweeper,
    clock: Clock,
) -> None:
    """Between noting and condemning."""
    await leave_orphans(metadata, nodes)
    (address,) = nodes.stores[1].records
    await sweeper.later()
    listing = sweeping.Listing(1, None, None, [address])
    assert await metadata.sweeping.note_orphans(listing) == 1
    clock.now_s += GRACE_S
    await metadata.add_deletes([ShardsOnNode(1, (address,))], DeleteReason.LEFTOVER)
    await metadata.sweeping.condemn(1, 10)
    assert [row.why for row in await due_deletes(metadata)] == [DeleteReason.LEFTOVER]


@pytest.mark.parametrize("page", [1, 2, 3, 7, 1000])
async def test_a_node_is_listed_in_pages(
    metadata: Metadata, nodes: MemoryCluster, sweeper: Sweeper, ends: tuple[WritePath, ReadPath],
    monkeypatch: pytest.MonkeyPatch, page: int,
) -> None:  # fmt: skip
    monkeypatch.setattr(sweep, "PAGE", page)
    contents = [await put(ends[0], os.urandom(100)) for _ in range(5)]
    before = nodes.shards()
    await leave_orphans(metadata, nodes, 7)
    lost = [(await ends[1].find(id_)).segments[0] for id_ in contents[:2]]
    for segment in lost:
        nodes.stores[2].records.pop(segment.address(segment.layout.index(2)))
    for _ in range(2):
        await sweeper.later()
        await sweeper.run()
    await sweeper.outbox()
    assert len(nodes.stores[1].kept) == 7
    assert nodes.shards() == {
        shard for shard in before if shard[0] != 2 or shard[1].segment not in {s.id for s in lost}
    }
    queued = await metadata._read(
        lambda sql: sql.rows("SELECT segment, generation, survivors FROM repair_queue")
    )
    assert sorted(queued) == sorted((s.id, s.generation, 8) for s in lost)


async def test_a_node_that_lost_everything_is_found_out_in_bounded_steps(
    metadata: Metadata, nodes: MemoryCluster, sweeper: Sweeper, ends: tuple[WritePath, ReadPath],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr(sweep, "PAGE", 2)
    for _ in range(7):
        await put(ends[0], os.urandom(100))
    nodes.stores[4].records.clear()
    await sweeper.run()
    assert (await metadata.counts())["repair_queue"] == 7


async def test_what_turns_out_to_be_referred_to_comes_back_from_quarantine(
    metadata: Metadata, nodes: MemoryCluster, sweeper: Sweeper, ends: tuple[WritePath, ReadPath],
) -> None:  # fmt: skip
    """As when the database was restored, swept, and then rebuilt from a younger copy."""
    id_ = await put(ends[0], os.urandom(300))
    before = nodes.shards()
    await leave_orphans(metadata, nodes)
    for store in nodes.stores.values():
        await store.quarantine(list(store.records))
    assert nodes.shards() == set()
    await sweeper.run()
    assert nodes.shards() == before
    assert len(nodes.stores[1].kept) == 1  # nothing refers to that one
    assert (await metadata.counts())["repair_queue"] == 0
    assert await get(ends[1], id_)


async def test_a_pass_may_be_asked_for(metadata: Metadata, nodes: MemoryCluster) -> None:
    rarely = SweepWorker(metadata, nodes.cluster, every_s=1_000_000)

    async def passes() -> int:
        while await rarely.step():
            pass
        return int((await metadata.job_states())["sweep"].state["passes"])

    assert await passes() == 1
    assert await passes() == 1
    asked = await asyncio.gather(*(want_pass(metadata, "sweep") for _ in range(3)))
    assert sorted(asked) == [1, 2, 3]
    assert await passes() == 2
    assert await passes() == 2


async def test_what_another_version_remembers_is_left_out(
    metadata: Metadata, sweeper: Sweeper
) -> None:
    await metadata.save_job_state("sweep", {"passes": 7, "from_the_future": 1})
    await sweeper.run()
    assert (await metadata.job_states())["sweep"].state["passes"] == 8

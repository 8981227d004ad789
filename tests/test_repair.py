"""Repair: whatever nodes lose, rot or miss, all shards come back on nodes of their own."""

import random
from collections.abc import Mapping
from dataclasses import replace

import pytest

from common.errors import Conflict, NotFound
from common.ids import ContentId
from common.shards import ShardRecord
from coordinator import repair
from coordinator.jobs import LEASE_S
from coordinator.mend import Mender
from coordinator.metadata import StoredSegment, Wish
from coordinator.metadata.inspecting import LayoutUse
from coordinator.metadata.restoring import Found
from coordinator.metadata.rows import UNUSED_S
from tests.torture.one_process import GRACE_S, Store

SIZES = (0, 1, 5_000, 100_000, 390 * 1024 + 7, 900_000)


async def filled(store: Store, seed: int = 1) -> dict[ContentId, bytes]:
    rng = random.Random(seed)
    contents = [rng.randbytes(size) for size in SIZES]
    return {(await store.fronts[0].put(data)).id: data for data in contents}


async def check(store: Store, contents: dict[ContentId, bytes], survives: int = 3) -> None:
    """All bytes are right, each segment has nine good shards, which survive that many nodes."""
    reads = store.fronts[0].reads
    for id_, data in contents.items():
        assert await store.fronts[1].get(id_) == data
        manifest = await reads.find(id_)
        assert str(reads.durability(manifest)) == f"9/9; survives={survives}"
        for segment in manifest.segments:
            for index, node in enumerate(segment.layout):
                held = store.nodes[node].store
                assert held is not None
                (record,) = await held.read([segment.address(index)])
                assert getattr(record, "info", None), (index, node, record)
    assert (await store.fronts[0].metadata.counts())["repair_queue"] == 0


async def lose(store: Store, *numbers: int) -> None:
    for number in numbers:
        await store.kill(number)
    await store.pass_time(901)


async def test_three_lost_nodes_are_made_up_for_by_the_six_that_are_left(store: Store) -> None:
    contents = await filled(store)
    await lose(store, 2, 5, 9)
    await store.fronts[0].work("repair")
    state = (await store.fronts[0].metadata.job_states())["repair"].state
    assert state["segments"] == (await store.fronts[0].metadata.counts())["segment"]  # once each
    await check(store, contents, survives=1)  # nine shards on six nodes
    for number in (2, 5, 9):
        await store.restart(number)
    await store.fronts[0].work("outbox")
    await store.pass_time(150)  # a delete that was sent twice may be on its way until then
    await store.fronts[0].work("repair")  # they are spread again
    await check(store, contents)
    await store.fronts[0].work("outbox")
    held = [shard for node in store.nodes.values() for shard in await node.shards()]
    assert len(held) == 9 * (await store.fronts[0].metadata.counts())["segment"]


async def test_a_node_that_is_only_away_is_waited_for(store: Store) -> None:
    contents = await filled(store)
    await store.kill(4)
    await store.fronts[0].work("repair")
    assert (await store.fronts[0].metadata.counts())["repair_queue"] == 0
    await store.restart(4)
    await check(store, contents)


async def test_bad_and_missing_shards_are_rebuilt_in_their_place(store: Store) -> None:
    contents = {id_: data for id_, data in (await filled(store)).items() if data}
    before = {}
    for id_ in contents:
        for segment in (await store.fronts[0].reads.find(id_)).segments:
            before[segment.id] = segment.layout
            first = store.nodes[segment.layout[0]].store
            assert first is not None
            await first.delete([segment.address(0)])
            store.nodes[segment.layout[7]].flip(segment.address(7), 3)
    for id_, data in contents.items():
        assert await store.fronts[0].get(id_) == data
    await store.fronts[0].settle()
    await store.fronts[1].work("repair")
    await check(store, contents)
    for id_ in contents:
        for segment in (await store.fronts[0].reads.find(id_)).segments:
            assert segment.layout == before[segment.id]


async def test_what_cannot_be_mended_stays_in_the_queue(store: Store) -> None:
    contents = await filled(store)
    await lose(store, 1, 2, 3, 4)
    await store.fronts[0].work("repair")
    segments = (await store.fronts[0].metadata.counts())["segment"]
    assert (await store.fronts[0].metadata.counts())["repair_queue"] == segments
    state = (await store.fronts[0].metadata.job_states())["repair"].state
    assert state["hopeless"] == segments
    for number in (1, 2, 3, 4):
        await store.restart(number)
    await store.pass_time(600)
    await store.fronts[0].work("repair")
    await check(store, contents)


async def test_a_drained_node_ends_up_empty(store: Store) -> None:
    contents = await filled(store)
    await store.fronts[0].metadata.set_wish(3, Wish.DRAINING)
    await store.pass_time(2)
    more = await filled(store, seed=2)
    await store.fronts[0].work("repair")
    await store.fronts[0].work("outbox")
    assert await store.nodes[3].shards() == []
    await check(store, contents | more, survives=2)  # nine shards on eight nodes
    await store.fronts[0].metadata.set_wish(3, Wish.ACTIVE)
    await store.pass_time(2)
    await store.fronts[0].work("repair")  # in vain: no shard goes where it was deleted just now
    assert (await store.fronts[0].metadata.counts())["repair_queue"] > 0
    await store.pass_time(UNUSED_S)
    await store.fronts[0].work("repair")
    await check(store, contents | more)


async def test_a_node_is_removed_only_when_nothing_needs_it(store: Store) -> None:
    contents = await filled(store)
    front = store.fronts[0]
    with pytest.raises(Conflict, match="drain it first"):
        await front.draining.remove("node-3")
    with pytest.raises(Conflict, match="--force"):
        await front.draining.drain("node-3", force=False, dry_run=False)
    plan = await front.draining.drain("node-3", force=False, dry_run=True)
    segments = (await front.metadata.counts())["segment"]
    assert (plan["segments"], plan["others"], plan["survives"]) == (segments, 8, 2)
    assert plan["state"] == "active"
    await front.draining.drain("node-3", force=True, dry_run=False)
    with pytest.raises(Conflict, match=f"{segments} segments"):
        await front.draining.remove("node-3")
    await front.work("repair")
    await front.work("outbox")
    await store.pass_time(2)
    assert (await front.draining.drain("node-3", force=True, dry_run=True))["state"] == "drained"
    await front.draining.remove("node-3")
    with pytest.raises(Conflict, match="removed"):
        await store.pass_time(2)
    await store.kill(3)
    with pytest.raises(Conflict, match="removed"):
        await front.draining.undrain("node-3")
    await check(store, contents, survives=2)


async def test_too_few_nodes_would_be_left(store: Store) -> None:
    for number in range(4, 10):
        await store.kill(number)
    with pytest.raises(Conflict, match="2 other nodes"):
        await store.fronts[0].draining.drain("node-1", force=True, dry_run=False)
    with pytest.raises(NotFound):
        await store.fronts[0].draining.undrain("node-77")


async def test_a_lost_node_is_removed_once_it_is_made_up_for(store: Store) -> None:
    contents = await filled(store)
    await lose(store, 8)
    with pytest.raises(Conflict, match="segments"):
        await store.fronts[0].draining.remove("node-8")
    await store.fronts[0].work("repair")
    await store.fronts[0].draining.remove("node-8")
    await check(store, contents, survives=2)


async def test_a_shard_whose_checksum_is_not_known_is_proved_by_the_segment_itself(
    store: Store,
) -> None:
    """As after the metadata was rebuilt while a node was away."""
    contents = await filled(store)
    front = store.fronts[0]
    known = [s for id_ in contents for s in (await front.reads.find(id_)).segments]
    partly = [
        replace(s, layout=(*s.layout[:8], 0), checksums=s.checksums[:-32] + bytes(32))
        for s in known
    ]
    await front.metadata._write(lambda sql: sql.run("DELETE FROM segment WHERE encoding = 0"))
    await front.metadata.stop_deletes("as a rebuild does")
    await front.metadata.restore_segments(
        [Found(s, {s.generation: 8}) for s in partly], "as a rebuild does"
    )
    await front.metadata.resume_deletes("as a rebuild does")
    await front.work("repair")
    found = [s for id_ in contents for s in (await front.reads.find(id_)).segments]
    assert [s.checksums for s in found] == [s.checksums for s in known]
    await check(store, contents)


async def test_another_process_goes_on_where_the_search_stood(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    contents = await filled(store)
    for front in store.fronts:
        await front.work("repair")
    monkeypatch.setattr(repair, "LAYOUTS_AT_ONCE", 2)
    await lose(store, 6)
    first, second = (front.jobs["repair"] for front in store.fronts)
    await first.step()
    await store.pass_time(LEASE_S + 1)
    began: list[int] = []
    uses = store.fronts[1].metadata.layout_uses

    async def looked_at(after: int, limit: int) -> list[LayoutUse]:
        began.append(after)
        return await uses(after, limit)

    monkeypatch.setattr(store.fronts[1].metadata, "layout_uses", looked_at)
    await second.step()
    assert began == [2]
    await store.fronts[1].work("repair")
    await check(store, contents, survives=2)


async def test_a_segment_that_is_collected_while_it_is_mended_leaves_nothing(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = store.fronts
    id_ = (await first.put(random.Random(1).randbytes(50_000))).id
    (stored,) = (await first.reads.find(id_)).segments
    store.nodes[stored.layout[0]].flip(stored.address(0), 5)
    assert await first.metadata.unpin(id_)
    await store.pass_time(GRACE_S + 1)
    write = Mender._write

    async def collected_before(
        self: Mender, stored: StoredSegment, stripe: memoryview, places: Mapping[int, int]
    ) -> dict[int, int]:
        for job in ("collect", "outbox"):
            await second.work(job)
        return await write(self, stored, stripe, places)

    monkeypatch.setattr(Mender, "_write", collected_before)
    await Mender(first.services).mend(stored)
    assert [len(await node.shards()) for node in store.nodes.values()].count(1) == 1
    await second.work("outbox")
    assert not any([await node.shards() for node in store.nodes.values()])


async def test_what_cannot_be_reached_is_not_taken_for_lost(store: Store) -> None:
    """Else uploads of the same bytes would replace it."""
    contents = await filled(store)
    front = store.fronts[0]
    await lose(store, 1)
    for number in (2, 3, 4, 5):
        await store.kill(number)
    await front.work("repair")
    state = (await front.metadata.job_states())["repair"].state
    assert (state["hopeless"], state["waiting"]) == (0, state["queued"])
    assert state["waits_for"] == "4 shards cannot be reached"
    for id_ in contents:
        for segment in (await front.reads.find(id_)).segments:
            assert await front.metadata.find_segment(segment.id) is not None
    rows = await front.metadata._read(
        lambda sql: sql.rows("SELECT survivors, reason FROM repair_queue")
    )
    assert set(rows) == {(8, "4 shards cannot be reached")}


async def test_shards_that_do_not_belong_together_are_never_called_whole(store: Store) -> None:
    """Each matches its checksum, but parity is that of other data."""
    (stored, other) = [
        (await store.fronts[0].reads.find((await store.fronts[0].put(data)).id)).segments[0]
        for data in (bytes(6_000), b"x" * 6_000)
    ]
    front = store.fronts[0]
    held = store.nodes[other.layout[8]].store
    target = store.nodes[stored.layout[8]].store
    assert held is not None and target is not None
    (record,) = await held.read([other.address(8)])
    assert isinstance(record, ShardRecord)
    await target.append(
        [ShardRecord(record.info._replace(address=stored.address(8)), record.payload)]
    )
    checksums = stored.checksums[: 8 * 32] + record.info.checksum
    await front.metadata._write(
        lambda sql: sql.run("UPDATE segment SET checksums = ? WHERE id = ?", checksums, stored.id)
    )
    await front.work("scrub")
    assert (await front.metadata.counts())["repair_queue"] == 1
    await front.work("repair")
    assert (await front.metadata.counts())["repair_queue"] == 1
    assert (await front.metadata.job_states())["repair"].state["hopeless"] == 1

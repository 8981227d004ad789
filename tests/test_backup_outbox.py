"""A backup of the database has an outbox too: what that was about to delete may be all there is."""

import random
from pathlib import Path

import pytest

from common.ids import ContentId
from coordinator.metadata import DeleteReason, Metadata, ShardsOnNode
from coordinator.metadata.rows import UNUSED_S
from coordinator.rebuild import Rebuild
from tests.metadata_parts import Clock, due_deletes, segment, single
from tests.reports import incoming
from tests.test_strays import copy_database, restore
from tests.torture.one_process import GRACE_S, Front, Store

DATA = random.Random(1).randbytes(50_000)
NODES = 13  # nine, and as many more as shards are moved


async def layout(front: Front, id_: ContentId) -> tuple[int, ...]:
    return (await front.reads.find(id_)).segments[0].layout


async def drain(store: Store, number: int) -> None:
    front = store.fronts[0]
    await front.draining.drain(f"node-{number}", force=True, dry_run=False)
    await store.pass_time(UNUSED_S + 10)
    await front.work("repair")


async def shards_left(store: Store) -> list[int]:
    held = [await node.shards() for node in store.nodes.values()]
    return sorted(info.address.index for shards in held for info in shards)


@pytest.mark.parametrize("rebuilt", [False, True])
async def test_places_that_were_used_again_since_the_backup_are_not_emptied(
    tmp_path: Path, rebuilt: bool
) -> None:
    """Four nodes were drained, and taken back when the four that took over were drained."""
    store = Store(tmp_path / "store", ["zone"] * NODES)
    await store.start()
    front = store.fronts[0]
    id_ = (await front.put(DATA)).id
    first = await layout(front, id_)
    for number in first[:4]:
        await drain(store, number)
    second = await layout(front, id_)
    assert set(second).isdisjoint(first[:4])
    copy_database(store.database, tmp_path / "backup.db")
    await front.work("outbox")
    await store.pass_time(UNUSED_S + 10)
    for number, other in zip(first[:4], second[:4], strict=True):
        await front.draining.undrain(f"node-{number}")
        await drain(store, other)
        await front.work("outbox")
    assert await layout(front, id_) == first
    await front.metadata._begin_session()
    await store.pass_time(5)
    await restore(store, tmp_path / "backup.db")
    assert "older than the nodes" in await front.metadata.deletes_stopped()
    if rebuilt:
        await Rebuild(front.metadata, front.cluster, front.reads).run()
    for job in ("sweep", "repair", "scrub", "repair"):
        await front.work(job)
    await front.metadata.allow_deletes()
    for _ in range(3):
        for job in ("sweep", "repair", "outbox"):
            await front.work(job)
        await store.pass_time(GRACE_S + 10)
        await front.metadata._begin_session()
    assert await shards_left(store) == list(range(9))
    assert await front.get(id_) == DATA
    await store.close()


@pytest.mark.parametrize("why", [*DeleteReason])
async def test_of_what_a_backup_has_nothing_is_deleted_any_more(
    metadata: Metadata, clock: Clock, why: DeleteReason
) -> None:
    """A delete of it may have been sent just before the alarm: its place rests."""
    await metadata.save_report(incoming(1))
    living, gone = segment(metadata), segment(metadata)
    await metadata.commit_content(single(living))
    for stored in (living, gone):
        await metadata.add_deletes([ShardsOnNode(12, (stored.address(2),))], why)
    assert (await metadata.save_report(incoming(1, epoch=1000))).restored
    await metadata.allow_deletes()
    due = await due_deletes(metadata)
    assert [row.shards.addresses for row in due] == [(gone.address(2),)]
    assert (await metadata.mending.forbidden(living)).places == {(2, 12)}
    clock.now_s += UNUSED_S
    assert not (await metadata.mending.forbidden(living)).places

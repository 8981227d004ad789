"""What a backup of the database says of segments is not relied on: they may be gone since."""

import random
from dataclasses import replace
from pathlib import Path

import pytest

from common.errors import SegmentGone
from common.ids import SegmentId
from coordinator.metadata import Committed, KnownSegment, Metadata, NewContent
from coordinator.metadata.sessions import tell_epoch
from coordinator.rebuild import Rebuild
from tests.metadata_parts import Clock, segment, single
from tests.reports import incoming
from tests.test_strays import copy_database, restore
from tests.torture.one_process import GRACE_S, SEGMENT_BYTES, Store

DATA = random.Random(3).randbytes(2 * SEGMENT_BYTES + 5000)


async def known_segment(metadata: Metadata, id_: SegmentId) -> KnownSegment:
    known = await metadata.find_segment(id_)
    assert known is not None
    return known


async def is_doubtful(metadata: Metadata, id_: SegmentId) -> bool:
    return (await known_segment(metadata, id_)).doubtful


@pytest.mark.parametrize("size_bytes", [5000, len(DATA)])
@pytest.mark.parametrize("rebuilt", [True, False])
async def test_what_was_collected_since_the_backup_is_written_anew(
    store: Store, tmp_path: Path, size_bytes: int, rebuilt: bool
) -> None:
    """It was acknowledged with all nine shards, and there was none."""
    front, data = store.fronts[0], DATA[:size_bytes]
    id_ = (await front.put(data)).id
    copy_database(store.database, tmp_path / "backup.db")
    await front.metadata.unpin(id_)
    await store.pass_time(GRACE_S + 100)
    await front.put(b"in another session")
    await front.work("collect")
    await front.work("outbox")
    await store.pass_time(5)
    await restore(store, tmp_path / "backup.db")
    assert "older than the nodes" in await front.metadata.deletes_stopped()
    if rebuilt:
        await Rebuild(front.metadata, front.cluster, front.reads).run()
    await front.metadata.allow_deletes()
    stored = await front.put(data)
    assert str(stored.durability) == "9/9; survives=3"
    assert await front.get(id_) == data
    await store.pass_time(GRACE_S)
    for job in ("sweep", "repair", "outbox"):
        await front.work(job)
    assert await front.get(id_) == data


async def test_what_is_there_is_read_and_not_written_again(store: Store, tmp_path: Path) -> None:
    """And the answer tells how much of it there is, until a scrub has seen it all."""
    front = store.fronts[0]
    data = DATA[:5000]
    stored = (await front.reads.find((await front.put(data)).id)).segments[0]
    copy_database(store.database, tmp_path / "backup.db")
    await store.pass_time(200)
    await front.put(b"in another session")
    await store.pass_time(5)
    await restore(store, tmp_path / "backup.db")
    assert str((await front.put(data)).durability) == "9/9; survives=3"
    node = store.nodes[stored.layout[2]].store
    assert node is not None
    await node.delete([stored.address(2)])
    assert str((await front.put(data)).durability) == "8/9; survives=2"
    assert await is_doubtful(front.metadata, stored.id)
    await front.work("repair")
    await store.pass_time(200)
    await front.work("scrub")
    assert not await is_doubtful(front.metadata, stored.id)
    known = await known_segment(front.metadata, stored.id)
    assert known.stored.generation == stored.generation


async def test_what_was_written_since_is_not_doubted(metadata: Metadata, clock: Clock) -> None:
    before = segment(metadata)
    await metadata.commit_content(single(before))
    assert not await is_doubtful(metadata, before.id)
    assert (await metadata.save_report(incoming(1, epoch=1000))).restored
    after = segment(metadata)
    await metadata.commit_content(single(after))
    await metadata.set_verified([before])  # by the clock of before, as far as anybody can tell
    assert await is_doubtful(metadata, before.id)
    assert not await is_doubtful(metadata, after.id)
    clock.now_s += 100
    await metadata.set_verified([before])
    assert not await is_doubtful(metadata, before.id)


async def test_a_look_from_before_the_alarm_does_not_count(metadata: Metadata) -> None:
    """An upload has found the segment, then the alarm comes, then it commits in a new session."""
    stored = segment(metadata)
    await metadata.commit_content(single(stored))
    known = await known_segment(metadata, stored.id)
    assert not known.doubtful
    relying = replace(single(known.stored), written=[])
    assert (await metadata.save_report(incoming(1, epoch=1000))).restored
    with pytest.raises(SegmentGone):
        await metadata.commit_content(relying)
    assert not (await metadata.commit_content(replace(relying, proven={stored.id}))).new


async def test_an_upload_that_the_alarm_comes_upon_is_refused_and_written_when_tried_again(
    store: Store, tmp_path: Path
) -> None:
    """What it has found there was collected since the backup."""
    front, data = store.fronts[0], DATA[:5000]
    id_ = (await front.put(data)).id
    stored = (await front.reads.find(id_)).segments[0]
    commit = front.metadata.commit_content

    async def alarm_first(new: NewContent) -> Committed:
        await front.metadata._write(lambda sql: tell_epoch(sql, 1, known=10_000, told=0))
        await front.metadata._begin_session()
        for index, node in enumerate(stored.layout):
            held = store.nodes[node].store
            assert held is not None
            await held.delete([stored.address(index)])
        return await commit(new)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(front.metadata, "commit_content", alarm_first)
        with pytest.raises(SegmentGone):
            await front.put(data)
    assert str((await front.put(data)).durability) == "9/9; survives=3"
    assert await front.get(id_) == data

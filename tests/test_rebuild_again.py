"""A rebuild of the metadata that ran while nodes were away is made good by another one."""

import os
from dataclasses import replace

import pytest

from common.errors import Unreadable
from common.hashing import blake3_digest
from common.ids import ContentId
from common.shards import ShardRecord
from coordinator.metadata import Metadata
from coordinator.metadata.restoring import REBUILDING, Found
from coordinator.metadata.rows import UNKNOWN_CHECKSUM, StoredSegment
from coordinator.rebuild import Rebuild
from tests.metadata_parts import NINE, execute, segment
from tests.torture.one_process import Front, Store

TABLES = ("segment", "pin", "content", "content_segment", "repair_queue", "outbox_delete")
DATA = os.urandom(5000)


async def rebuild(front: Front) -> tuple[int, int]:
    """How many nodes could not be asked, and how many segments cannot be read with the rest."""
    report = await Rebuild(front.metadata, front.cluster, front.reads).run()
    return report.away, report.unreadable


@pytest.mark.parametrize("still_away", [(), (6, 7, 8, 9)])
async def test_shards_on_nodes_that_were_away(store: Store, still_away: tuple[int, ...]) -> None:
    """All nine were good, and the content could never be read again."""
    front, first_away = store.fronts[0], (1, 2, 3, 4)
    id_ = (await front.put(DATA)).id
    for table in TABLES:
        await execute(front.metadata, f"DELETE FROM {table}")
    for number in first_away:
        await store.kill(number)
    assert await rebuild(front) == (4, 1)
    with pytest.raises(Unreadable):
        await front.get(id_)
    for number in first_away:
        await store.restart(number)
    for number in still_away:
        await store.kill(number)
    away, _ = await rebuild(front)
    assert away == len(still_away)
    for number in still_away:
        await store.restart(number)
    assert await front.get(id_) == DATA
    await front.work("repair")
    await front.work("scrub")
    assert (await front.metadata.counts())["repair_queue"] == 0


async def found_in_part(store: Store, away: tuple[int, ...]) -> StoredSegment:
    """A content of one segment, of which a rebuild has not found what these nodes have; they are
    back by now. As it was before."""
    front = store.fronts[0]
    stored = (await front.reads.find((await front.put(DATA)).id)).segments[0]
    for table in TABLES:
        await execute(front.metadata, f"DELETE FROM {table}")
    for number in away:
        await store.kill(number)
    assert await rebuild(front) == (4, 1)
    for number in away:
        await store.restart(number)
    return stored


@pytest.mark.parametrize("one_is_wrong", [False, True])
async def test_repair_finds_them_without_a_second_one(store: Store, one_is_wrong: bool) -> None:
    front = store.fronts[0]
    stored = await found_in_part(store, (1, 2, 3, 4))
    if one_is_wrong:  # of those that the rebuild has found: of the others enough are left
        await make_wrong(store, stored, stored.layout.index(7))
    await front.work("repair")
    assert await front.get(ContentId(stored.id)) == DATA
    for _ in range(2):
        await store.pass_time(700)
        await front.work("repair")
    assert (await front.metadata.counts())["repair_queue"] == 0


async def test_what_does_not_prove_to_be_right_is_not_adopted(store: Store) -> None:
    front = store.fronts[0]
    stored = await found_in_part(store, (1, 2, 3, 4))
    for number in (1, 2, 3, 4):
        await make_wrong(store, stored, stored.layout.index(number))
    await front.work("repair")
    (now,) = await front.metadata.segments_after(b"", 2)
    assert now.layout.count(0) == now.checksums.count(UNKNOWN_CHECKSUM) == 4
    with pytest.raises(Unreadable):
        await front.get(ContentId(stored.id))


async def make_wrong(store: Store, stored: StoredSegment, index: int) -> None:
    """A good record of other bytes."""
    node = store.nodes[stored.layout[index]].store
    assert node is not None
    (found,) = await node.read([stored.address(index)])
    assert isinstance(found, ShardRecord)
    payload = bytes(len(found.payload))
    info = found.info._replace(checksum=blake3_digest(payload))
    await node.append([ShardRecord(info, payload)])


async def restored(metadata: Metadata, *found: Found) -> StoredSegment:
    await metadata.stop_deletes(REBUILDING)
    for each in found:
        await metadata.restore_segments([each], REBUILDING)
    (now,) = await metadata.segments_after(b"", 10)
    return now


def part_of(whole: StoredSegment, count: int) -> StoredSegment:
    """As it is found if the first so many of its shards are."""
    checksums = whole.checksums[: 32 * count] + UNKNOWN_CHECKSUM * (9 - count)
    return replace(whole, layout=(*NINE[:count], *[0] * (9 - count)), checksums=checksums)


async def test_an_older_write_takes_the_place_of_a_younger_one_that_is_lost(
    metadata: Metadata,
) -> None:
    """The younger one was an upload that was cut short; of the older one less was found before."""
    older, younger = segment(metadata), segment(metadata)
    younger = part_of(replace(younger, id=older.id), 5)
    now = await restored(
        metadata,
        Found(younger, {younger.generation: 5, older.generation: 4}),
        Found(older, {younger.generation: 5, older.generation: 9}),
    )
    assert now == older


async def test_what_can_be_read_is_left_as_it_is(metadata: Metadata) -> None:
    """Repair knows what to do, and relies on nobody's word for a checksum."""
    whole = segment(metadata)
    known = part_of(whole, 6)
    assert await restored(metadata, Found(known, {}), Found(whole, {})) == known


async def test_another_checksum_than_the_one_that_is_known_is_not_believed(
    metadata: Metadata,
) -> None:
    whole = segment(metadata)
    known = part_of(whole, 5)
    other = replace(whole, layout=NINE[::-1], checksums=bytes([1]) * 32 + whole.checksums[32:])
    now = await restored(metadata, Found(known, {}), Found(other, {}))
    assert now.layout == (1, *NINE[::-1][1:])
    assert now.checksums == whole.checksums


async def test_where_a_shard_is_about_to_be_deleted_it_is_not_looked_for(
    metadata: Metadata,
) -> None:
    whole = segment(metadata)
    known = part_of(whole, 5)
    await restored(metadata, Found(known, {}))
    await execute(
        metadata,
        "INSERT INTO deleted_place (node, segment, generation, indexes, until) "
        "VALUES (7, ?, ?, ?, {now} + 100)",
        whole.id, whole.generation, bytes([6]),
    )  # fmt: skip
    now = await restored(metadata, Found(whole, {}))
    assert now.layout == (*NINE[:6], 0, 8, 9)
    assert (await metadata.counts())["repair_queue"] == 1

"""Layouts that no segment has any more are forgotten, and no process names one of these later.
Each `Metadata` stands for a process."""

import random
from pathlib import Path

import pytest

from common.ids import ContentId
from coordinator.metadata import Metadata, StoredSegment, migrations, open_metadata
from coordinator.metadata.database import open_database
from coordinator.metadata.migrations import MIGRATIONS
from coordinator.metadata.packing import pack_layout
from coordinator.metadata.sql import Sql
from tests.metadata_parts import GRACE_S, NINE, Clock, execute, segment, single
from tests.torture.one_process import Store

ANOTHER, THIRD = NINE[::-1], (2, 1, *NINE[2:])


async def stored(metadata: Metadata, layout: tuple[int, ...] = NINE) -> StoredSegment:
    made = segment(metadata, layout)
    assert (await metadata.commit_content(single(made))).new
    return made


async def gone(metadata: Metadata, *segments: StoredSegment) -> None:
    for each in segments:
        await execute(metadata, "DELETE FROM segment WHERE id = ?", each.id)


async def forget_all(metadata: Metadata) -> None:
    """As repair does when it has seen them unused."""
    uses = await metadata.layout_uses(0, 100)
    await metadata.mending.forget_layouts([use.id for use in uses])


async def layouts(metadata: Metadata) -> dict[int, tuple[int, ...]]:
    return {use.id: use.layout for use in await metadata.layout_uses(0, 100)}


async def is_there(metadata: Metadata, wanted: StoredSegment) -> bool:
    found = await metadata.find_content(ContentId(wanted.id))
    return found is not None and found.segments[0].layout == wanted.layout


async def test_only_unused_ones_are_forgotten(metadata: Metadata) -> None:
    kept, _ = [await stored(metadata) for _ in range(2)], await stored(metadata, THIRD)
    left = await stored(metadata, ANOTHER)
    await gone(metadata, kept[0], left)
    await stored(metadata, (5, *NINE[1:]))
    await forget_all(metadata)
    assert set((await layouts(metadata)).values()) == {NINE, THIRD, (5, *NINE[1:])}
    assert await is_there(metadata, kept[1])


async def test_a_number_never_comes_again(metadata: Metadata) -> None:
    """Who has looked at layouts a page ago names them by it."""
    old = [await stored(metadata), await stored(metadata, ANOTHER)]
    before = await layouts(metadata)
    await gone(metadata, *old)
    await forget_all(metadata)
    await stored(metadata, THIRD)
    (number,) = [id_ for id_, layout in (await layouts(metadata)).items() if layout == THIRD]
    assert number > max(before)


async def test_another_process_does_not_name_what_was_forgotten(
    both: tuple[Metadata, Metadata],
) -> None:
    """It remembers the number, and a segment with a layout that is not there could not be read."""
    a, b = both
    old = await stored(b)
    await stored(a, ANOTHER)
    await gone(a, old)
    await forget_all(a)
    assert NINE not in (await layouts(a)).values()
    assert await is_there(b, await stored(b))


async def test_nor_does_one_that_moves_shards(both: tuple[Metadata, Metadata]) -> None:
    a, b = both
    old, moved = await stored(b), await stored(b, (1, 2, 3, 4, 5, 6, 7, 8, 10))
    await stored(a, ANOTHER)
    await gone(a, old)
    await forget_all(a)
    asked_at_s = (await b.mending.forbidden(moved)).asked_at_s
    assert await b.mending.switch_layout(moved, {8: 9}, asked_at_s)
    found = await b.find_content(ContentId(moved.id))
    assert found is not None
    assert found.segments[0].layout == NINE


async def test_nor_does_the_process_itself_in_the_same_transaction(metadata: Metadata) -> None:
    old = await stored(metadata)
    await stored(metadata, ANOTHER)
    await gone(metadata, old)
    (number, *_) = await layouts(metadata)

    def forget_and_name(sql: Sql) -> int:
        assert metadata._layouts.intern(NINE) == number
        metadata._layouts.forget_unused([number])
        return metadata._layouts.intern(NINE)

    assert await metadata._write(forget_and_name) > number


async def test_a_layout_that_is_used_again_meanwhile_stays(metadata: Metadata) -> None:
    old = await stored(metadata)
    await stored(metadata, ANOTHER)
    await gone(metadata, old)
    unused = [use.id for use in await metadata.layout_uses(0, 100) if not use.segments]
    again = await stored(metadata)
    await metadata.mending.forget_layouts(unused)
    assert await is_there(metadata, again)


async def test_a_database_of_version_10_comes_forward(
    tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(migrations, "MIGRATIONS", MIGRATIONS[:10])
        old = open_database(f"sqlite:///{tmp_path / 'metadata.db'}", clock)
    for layout in (NINE, ANOTHER):
        old.run("INSERT INTO layout (nodes) VALUES (?)", pack_layout(layout))
    old.database.close()
    opened = open_metadata(tmp_path, "", GRACE_S, clock)
    await opened.start()
    await forget_all(opened)
    assert list((await layouts(opened)).values()) == [ANOTHER]
    assert await is_there(opened, await stored(opened))
    await opened.close()


async def test_repair_forgets_them_when_it_goes_through_all(tmp_path: Path) -> None:
    store, rng = Store(tmp_path), random.Random(1)
    await store.start()
    front = store.fronts[0]
    await front.work("repair")
    ids = [(await front.put(rng.randbytes(100))).id for _ in range(20)]
    kept = await front.put(b"kept")
    for id_ in ids:
        await front.metadata.unpin(id_)
    await store.pass_time(2 * GRACE_S)
    await front.metadata._begin_session()
    await front.work("collect")
    assert (await front.metadata.counts())["segment"] == 1
    await store.pass_time(3600)
    await front.work("repair")
    assert (await front.metadata.counts())["layout"] <= 2
    assert await front.get(kept.id) == b"kept"
    await store.close()

"""What an upload has stored on nodes that are removed or lost before it commits does not count."""

from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from common.errors import Conflict, SegmentGone, Undurable
from common.ids import ContentId
from coordinator.metadata import Metadata, NewContent, Wish, open_metadata, sessions
from coordinator.metadata.store import SESSION_LEASE_S
from tests.metadata_parts import GRACE_S, NINE, Clock, due_deletes, segment, several, single
from tests.reports import incoming

LOST_AFTER_S = 900
Go = Callable[..., Awaitable[None]]


@pytest.fixture
async def metadata(tmp_path: Path, clock: Clock) -> AsyncIterator[Metadata]:
    """With twelve nodes that have just reported."""
    opened = open_metadata(tmp_path, "", GRACE_S, clock, lost_after_s=LOST_AFTER_S)
    await opened.start()
    await report(opened, *range(1, 13))
    yield opened
    await opened.close()


async def report(metadata: Metadata, *numbers: int) -> None:
    for number in numbers:
        await metadata.save_report(incoming(number))


async def lose(metadata: Metadata, clock: Clock, *numbers: int) -> None:
    """All others go on reporting, and the coordinator goes on renewing its lease."""
    for _ in range(0, LOST_AFTER_S, SESSION_LEASE_S):
        clock.now_s += SESSION_LEASE_S
        await metadata._write(
            partial(sessions.renew_session, session=metadata.session, lease_s=SESSION_LEASE_S)
        )
    await report(metadata, *(number for number in range(1, 13) if number not in numbers))


async def remove(metadata: Metadata, clock: Clock, *numbers: int) -> None:
    for number in numbers:
        await metadata.set_wish(number, Wish.REMOVED)


def short_of(new: NewContent, *numbers: int) -> list[tuple[int, ...]]:
    return [tuple(0 if n in numbers else n for n in s.layout) for s in new.segments]


@pytest.mark.parametrize("go", [lose, remove])
@pytest.mark.parametrize("segments", [1, 3])
async def test_one_shard_less_is_mended(
    metadata: Metadata, clock: Clock, go: Go, segments: int
) -> None:
    """As if that shard had never been confirmed; what lies there is deleted if it comes back."""
    parts = [segment(metadata) for _ in range(segments)]
    new = single(parts[0]) if segments == 1 else several(metadata, parts)
    await go(metadata, clock, 4)
    assert (await metadata.commit_content(new)).new
    manifest = await metadata.find_content(new.id)
    assert manifest is not None
    assert [s.layout for s in manifest.segments] == short_of(new, 4)
    assert (await metadata.counts())["repair_queue"] == len(new.written)
    deleted = {address for row in await due_deletes(metadata) for address in row.shards.addresses}
    assert deleted == {written.address(3) for written in new.written}


@pytest.mark.parametrize("go", [lose, remove])
async def test_too_few_are_refused(metadata: Metadata, clock: Clock, go: Go) -> None:
    new, other = several(metadata, [segment(metadata)] * 2), single(segment(metadata))
    untouched = single(segment(metadata, tuple(range(4, 13))))
    await go(metadata, clock, 2, 3)
    for refused in (new, other):
        with pytest.raises(Undurable, match="7 of 9 shards"):
            await metadata.commit_content(refused)
    assert (await metadata.commit_content(untouched)).new
    assert (await metadata.counts())["segment"] == 1


async def test_what_an_upload_found_must_have_enough_left(metadata: Metadata, clock: Clock) -> None:
    stored = segment(metadata)
    await metadata.commit_content(single(stored))
    again = replace(single(stored), written=[])
    await lose(metadata, clock, 1, 2, 3)
    assert not (await metadata.commit_content(again)).new
    await lose(metadata, clock, 1, 2, 3, 4)
    with pytest.raises(SegmentGone):
        await metadata.commit_content(again)


async def test_good_bytes_take_the_place_of_what_went_with_its_nodes(
    metadata: Metadata, clock: Clock
) -> None:
    """Both uploads began before either committed."""
    first = segment(metadata)
    second = replace(first, generation=metadata.new_generation(), layout=tuple(range(4, 13)))
    await metadata.commit_content(single(first))
    await lose(metadata, clock, 1, 2, 3, 4)
    await report(metadata, 4)
    await lose(metadata, clock, 1, 2, 3)  # six are left of the first: it stands
    await metadata.commit_content(single(second))
    found = await metadata.find_content(ContentId(first.id))
    assert found is not None and found.segments == (first,)
    third = replace(first, generation=metadata.new_generation(), layout=tuple(range(4, 13)))
    fourth = replace(third, layout=(*range(5, 13), 0))
    await lose(metadata, clock, 1, 2, 3, 4)
    await metadata.commit_content(single(fourth))
    found = await metadata.find_content(ContentId(first.id))
    assert found is not None and found.segments == (fourth,)


async def test_no_node_is_removed_that_a_segment_names(metadata: Metadata) -> None:
    """It may have been committed since somebody looked."""
    await metadata.commit_content(single(segment(metadata, (0x0101, *NINE[1:]))))
    await metadata.set_wish(1, Wish.REMOVED)
    with pytest.raises(Conflict, match="node-2"):
        await metadata.set_wish(2, Wish.REMOVED)
    assert {node.number for node in await metadata.nodes() if node.wish is Wish.REMOVED} == {1}


async def test_no_shard_is_moved_to_a_node_that_was_removed_meanwhile(metadata: Metadata) -> None:
    stored = segment(metadata)
    await metadata.commit_content(single(stored))
    asked_at_s = (await metadata.mending.forbidden(stored)).asked_at_s
    await metadata.set_wish(11, Wish.REMOVED)
    assert not await metadata.mending.switch_layout(stored, {0: 11}, asked_at_s)
    assert await metadata.mending.switch_layout(stored, {0: 12}, asked_at_s)

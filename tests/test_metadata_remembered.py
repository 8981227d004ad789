"""Looking up contents again: without a query, and never what was true before."""

import asyncio
from dataclasses import replace
from typing import Any

import pytest

from common.ids import ContentId
from coordinator.metadata import Metadata, reads, remembered
from tests.metadata_parts import execute, notice, segment, several, single


class Queries:
    """How many contents each query was for."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.counts: list[int] = []
        look_up = reads.manifests

        def counted(*arguments: Any, **named: Any) -> Any:
            found = look_up(*arguments, **named)
            self.counts.append(len(found))
            return found

        monkeypatch.setattr(reads, "manifests", counted)


@pytest.fixture
def queries(monkeypatch: pytest.MonkeyPatch) -> Queries:
    return Queries(monkeypatch)


async def stored_in(metadata: Metadata, count: int = 1) -> list[ContentId]:
    new = [single(segment(metadata)) for _ in range(count)]
    await asyncio.gather(*map(metadata.commit_content, new))
    return [one.id for one in new]


async def test_while_nothing_changes_nothing_is_queried(
    metadata: Metadata, queries: Queries
) -> None:
    one, other = await stored_in(metadata, 2)
    first = await metadata.find_content(one)
    assert first is not None
    for _ in range(3):
        assert await metadata.find_content(one) == first
    assert queries.counts == [1]
    assert (await metadata.find_content(other)) != first
    assert queries.counts == [1, 1]


@pytest.mark.parametrize("who", [0, 1])
async def test_what_any_process_deletes_is_gone_at_once(
    both: tuple[Metadata, Metadata], who: int
) -> None:
    (id_,) = await stored_in(both[0])
    for metadata in both:
        assert await metadata.find_content(id_) is not None
    assert await both[who].unpin(id_)
    for metadata in both:
        assert await metadata.find_content(id_) is None


@pytest.mark.parametrize("who", [0, 1])
async def test_what_any_process_moves_or_finds_bad_is_known_at_once(
    both: tuple[Metadata, Metadata], who: int
) -> None:
    stored = segment(both[0])
    await both[0].commit_content(single(stored))
    id_ = ContentId(stored.id)
    for metadata in both:
        assert await metadata.find_content(id_) is not None
    asked_at_s = (await both[who].mending.forbidden(stored)).asked_at_s
    assert await both[who].mending.switch_layout(stored, {8: 12}, asked_at_s)
    moved = replace(stored, layout=(*stored.layout[:8], 12))
    for metadata in both:
        found = await metadata.find_content(id_)
        assert found is not None
        assert found.segments == (moved,)
    assert await both[who].queue_repair(notice(moved, 3))
    for metadata in both:
        found = await metadata.find_content(id_)
        assert found is not None
        assert found.segments[0].known_bad == 1 << 3


async def test_what_is_not_there_is_not_remembered(metadata: Metadata, queries: Queries) -> None:
    new = single(segment(metadata))
    for _ in range(2):
        assert await metadata.find_content(new.id) is None
    await metadata.commit_content(new)
    assert await metadata.find_content(new.id) is not None
    assert queries.counts == [0, 0, 1]


async def test_large_contents_are_looked_up_each_time(metadata: Metadata, queries: Queries) -> None:
    """What is remembered stays small."""
    new = several(metadata, [segment(metadata), segment(metadata)])
    await metadata.commit_content(new)
    for _ in range(2):
        assert await metadata.find_content(new.id) is not None
    assert queries.counts == [1, 1]


async def test_no_more_than_so_many_are_remembered(
    metadata: Metadata, queries: Queries, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remembered, "LIMIT", 3)
    ids = await stored_in(metadata, 4)
    for id_ in (*ids, ids[3], ids[0]):
        assert await metadata.find_content(id_) is not None
    assert queries.counts == [1, 1, 1, 1, 1]  # the fourth is remembered, the first is forgotten


async def test_a_change_of_anything_is_a_reason_to_look_again(
    metadata: Metadata, queries: Queries
) -> None:
    (id_,) = await stored_in(metadata)
    for _ in range(2):
        assert await metadata.find_content(id_) is not None
        await execute(metadata, "UPDATE pin SET created_at = created_at + 1")
    assert queries.counts == [1, 1]

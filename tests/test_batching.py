"""What a batch that fails as a whole leaves to those who wait."""

import asyncio

import pytest

from common.errors import SegmentGone, Unavailable
from common.ids import ContentId, SegmentId
from coordinator.metadata import Metadata, reads
from coordinator.metadata.batching import BatchThread, own_copy


async def test_each_waiter_gets_an_error_of_its_own() -> None:
    def fail(batch: list[int]) -> list[int]:
        raise SegmentGone("gone")

    thread = BatchThread[int, int]("test", fail, lambda: None)
    found = await asyncio.gather(*map(thread.ask, range(20)), return_exceptions=True)
    await thread.close()
    assert {(type(error), str(error)) for error in found} == {(SegmentGone, "gone")}
    assert len({id(error) for error in found}) == 20


async def test_each_lookup_gets_an_error_of_its_own(
    metadata: Metadata, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*args: object, **named: object) -> None:
        raise Unavailable("broken")

    monkeypatch.setattr(reads, "known_segments", fail)
    monkeypatch.setattr(reads, "manifests", fail)
    asked = [metadata.find_segment(SegmentId(bytes(32))) for _ in range(5)]
    asked_contents = [metadata.find_content(ContentId(bytes(32))) for _ in range(5)]
    found = await asyncio.gather(*asked, *asked_contents, return_exceptions=True)
    assert {str(error) for error in found} == {"broken"}
    assert len({id(error) for error in found}) == 10


def test_a_copy_keeps_the_cause() -> None:
    error = Unavailable("broken")
    error.__cause__ = OSError("disk")
    assert own_copy(error).__cause__ is error.__cause__

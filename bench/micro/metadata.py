"""The metadata database, on a real SQLite file."""

import os
import random
from collections.abc import Awaitable, Callable

from bench.micro.files import synced_overwrites
from bench.micro.harness import Piece, Pieces, Stage, awaited
from common.ids import ContentId, SegmentId
from common.shards import Encoding
from common.units import KIB
from coordinator.config import ALL_SHARDS, DATA_SHARDS
from coordinator.metadata import Committed, Metadata, NewContent, StoredSegment, open_metadata

GRACE_S = 3600
AT_ONCE = 64
CONTENTS = 2000  # there are before anything is looked up
LAYOUT = tuple(range(1, ALL_SHARDS + 1))
LOG_PAGES = 4000


def metadata_pieces(stage: Stage) -> Pieces:
    """Contents of one segment. The least that a commit takes is one page of
    the database's log, written and synced."""
    metadata = stage.runner.run(_opened(stage))
    try:
        yield from _commit_pieces(stage, metadata)
        yield from _look_up_pieces(stage, metadata)
    finally:
        stage.runner.run(metadata.close())


async def _opened(stage: Stage) -> Metadata:
    metadata = open_metadata(stage.directory, "", GRACE_S)
    await metadata.start()
    return metadata


def _commit_pieces(stage: Stage, metadata: Metadata) -> Pieces:
    def commit() -> Awaitable[Committed]:
        return metadata.commit_content(new_content(metadata))

    with synced_overwrites(stage.directory / "floor", os.urandom(4 * KIB), LOG_PAGES) as floor:
        yield Piece("metadata commit", "µs", awaited(stage, commit), floor=floor)
    together = awaited(stage, commit, AT_ONCE)
    yield Piece(f"metadata commit, {AT_ONCE} at once", "ops/s", together, AT_ONCE)


def _look_up_pieces(stage: Stage, metadata: Metadata) -> Pieces:
    ids = stage.runner.run(_filled(metadata))

    def hit() -> Awaitable[object]:
        return metadata.find_content(random.choice(ids))

    def miss() -> Awaitable[object]:
        return metadata.find_segment(SegmentId(os.urandom(32)))

    asked: tuple[tuple[str, Callable[[], Awaitable[object]]], ...]
    asked = (("find_content hit", hit), ("find_segment miss", miss))
    for name, ask in asked:
        yield Piece(f"metadata {name}", "µs", awaited(stage, ask))
        together = awaited(stage, ask, AT_ONCE)
        yield Piece(f"metadata {name}, {AT_ONCE} at once", "ops/s", together, AT_ONCE)


async def _filled(metadata: Metadata) -> list[ContentId]:
    """The ids of contents that are there."""
    new = [new_content(metadata) for _ in range(CONTENTS)]
    for commit in [metadata.commit_content(one) for one in new]:
        await commit
    return [one.id for one in new]


def new_content(metadata: Metadata) -> NewContent:
    """Of one segment, with an id that was never used."""
    segment = StoredSegment(
        SegmentId(os.urandom(32)), 4 * KIB, Encoding.PLAIN, DATA_SHARDS, ALL_SHARDS,
        metadata.new_generation(), LAYOUT, bytes(ALL_SHARDS * 32),
    )  # fmt: skip
    return NewContent(ContentId(segment.id), segment.size_bytes, [segment], None, [segment])

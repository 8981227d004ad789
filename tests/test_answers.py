"""The answer to a PUT tells of what stands, also where another upload's segments do."""

import asyncio
import os

import pytest

from coordinator.metadata import Metadata, NewBundle, NewContent
from tests.bundles import all_wait, another_on_its_way, begun, bundled, ids_of, small
from tests.memory_cluster import SEGMENT_BYTES, MemoryCluster, body, paths, put

SHARED, ONE, TWO = (os.urandom(SEGMENT_BYTES) for _ in range(3))


@pytest.mark.parametrize("ours", [SHARED + ONE, ONE + SHARED, SHARED])
async def test_another_upload_of_a_segment_comes_first(
    metadata: Metadata, nodes: MemoryCluster, ours: bytes
) -> None:
    """And is doubled up on seven nodes."""
    commit = metadata.commit_content
    with paths(metadata, nodes) as (writes, reads), pytest.MonkeyPatch.context() as patched:

        async def another_first(new: NewContent) -> object:
            patched.undo()
            nodes.away = {1, 2}
            await put(writes, SHARED + TWO)
            nodes.away = set()
            return await commit(new)

        patched.setattr(metadata, "commit_content", another_first)
        stored = await writes.store(body(ours), len(ours))
        assert stored.new
        now = reads.durability(await reads.find(stored.id))
        assert str(stored.durability) == str(now) == "9/9; survives=1"


async def test_in_a_bundle_what_was_put_and_deleted_meanwhile_is_put_anew(
    metadata: Metadata, nodes: MemoryCluster
) -> None:
    contents = small(3)
    commit = metadata.commit_bundle
    with (
        paths(metadata, nodes) as (writes, reads),
        paths(metadata, nodes) as others,
        pytest.MonkeyPatch.context() as patched,
    ):

        async def another_first(new: NewBundle) -> object:
            patched.undo()
            nodes.away = {1, 2}
            await bundled(others, [contents[0], *small(2)])
            nodes.away = set()
            await metadata.unpin(ids_of(contents)[0])
            return await commit(new)

        async with another_on_its_way(writes):
            puts = begun(writes, contents)
            await all_wait(writes, puts)
            patched.setattr(metadata, "commit_bundle", another_first)
        first, *_ = await asyncio.gather(*puts)
        assert first.new
        now = reads.durability(await reads.find(ids_of(contents)[0]))
        assert str(first.durability) == str(now) == "9/9; survives=3"

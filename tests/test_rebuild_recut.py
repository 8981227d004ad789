"""Rebuilds of the metadata where a content was cut into segments in several ways, one after the
other: whichever can be read stands."""

import pytest

from common.errors import NotFound
from coordinator.metadata import Metadata
from coordinator.rebuild import Rebuild
from tests.memory_cluster import paths
from tests.metadata_parts import execute
from tests.test_bundle_dangers import back_up, restore
from tests.test_rebuild import forget_everything
from tests.test_recut import CUTS, DATA, ID, WHOLE, Bed, bed

__all__ = ["bed"]  # a fixture


async def rebuild(bed: Bed) -> None:
    with paths(bed.metadata, bed.nodes) as (_, reads):
        await Rebuild(bed.metadata, bed.nodes.cluster, reads).run()


async def forget(metadata: Metadata) -> None:
    await forget_everything(metadata)
    for table in ("collect_queue", "repair_queue", "outbox_delete"):
        await execute(metadata, f"DELETE FROM {table}")


@pytest.mark.parametrize(("old", "new"), CUTS)
@pytest.mark.parametrize("lost", [False, True])
async def test_a_healed_content_stays_healed(bed: Bed, old: int, new: int, lost: bool) -> None:
    """The cut that it was lost in is still there; so is the database, or it is not."""
    await bed.put(old)
    await bed.lose()
    assert not await bed.put(new)
    assert await bed.get() == DATA
    if lost:
        await forget(bed.metadata)
    await rebuild(bed)
    assert await bed.get() == DATA


@pytest.mark.parametrize(("old", "new"), CUTS)
@pytest.mark.parametrize("collected", [False, True])
async def test_a_backup_that_names_the_cut_of_before(
    bed: Bed, old: int, new: int, collected: bool
) -> None:
    await bed.put(old)
    backup = await back_up(bed.metadata)
    await bed.lose()
    await bed.put(new)
    if collected:
        await bed.pass_grace()
    await restore(bed.metadata, backup)
    await rebuild(bed)
    assert await bed.get() == DATA
    await bed.pass_grace()
    assert await bed.get() == DATA


@pytest.mark.parametrize(("old", "new"), CUTS)
async def test_a_deleted_content_stays_deleted(bed: Bed, old: int, new: int) -> None:
    """Both cuts wait for the end of their grace periods."""
    await bed.put(old)
    await bed.put(new)
    await bed.metadata.unpin(ID)
    await rebuild(bed)
    with pytest.raises(NotFound):
        await bed.get()


async def test_a_lost_cut_does_not_replace_one_that_cannot_be_read_now(bed: Bed) -> None:
    """The nodes of that are away."""
    await bed.put(4096)
    await bed.lose()
    await bed.put(WHOLE)
    bed.nodes.away.update((1, 2, 3, 4))
    await rebuild(bed)
    bed.nodes.away.clear()
    assert await bed.get() == DATA

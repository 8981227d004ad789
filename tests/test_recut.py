"""The same bytes again, cut into segments otherwise than before: whoever still has them heals the
content, and the old segments give their room back."""

import random

import pytest

from common.errors import Unreadable
from common.hashing import blake3_digest
from common.ids import ContentId
from coordinator.deleting import OutboxWorker
from coordinator.metadata import Metadata
from tests.memory_cluster import MemoryCluster, body, get, paths
from tests.metadata_parts import GRACE_S, Clock, seize_lease
from tests.reports import incoming

DATA = random.Random(1).randbytes(10_000)
ID = ContentId(blake3_digest(DATA))
SMALL, LARGE, WHOLE = 4_096, 8_192, 16_384  # three segments, two, one
CUTS = [(SMALL, LARGE), (LARGE, SMALL), (SMALL, WHOLE), (WHOLE, SMALL)]


class Bed:
    """Nodes and a database, and before them coordinators with different settings."""

    def __init__(self, metadata: Metadata, clock: Clock) -> None:
        self.metadata, self.clock, self.nodes = metadata, clock, MemoryCluster()

    async def put(self, segment_bytes: int, data: bytes = DATA) -> bool:
        """Whether it was new."""
        with paths(self.metadata, self.nodes, segment_bytes) as (writes, _):
            return (await writes.store(body(data), len(data))).new

    async def get(self, id_: ContentId = ID) -> bytes:
        with paths(self.metadata, self.nodes) as (_, reads):
            try:
                return await get(reads, id_)
            finally:
                await reads.settle()

    async def lose(self) -> None:
        """Four shards of the first segment, which nobody notices."""
        manifest = await self.metadata.find_content(ID)
        assert manifest is not None
        first = manifest.segments[0]
        for index in range(4):
            del self.nodes.stores[first.layout[index]].records[first.address(index)]

    async def pass_grace(self) -> None:
        """And let the jobs delete what may go by then."""
        self.clock.now_s += GRACE_S
        await self.metadata._begin_session()
        while await self.metadata.collect(100):
            pass
        await seize_lease(self.metadata)
        await OutboxWorker(self.metadata, self.nodes.cluster).step()

    async def segments(self) -> int:
        """Whole ones on the nodes."""
        shards = len(self.nodes.shards())
        assert shards % 9 == 0 and shards // 9 == (await self.metadata.counts())["segment"]
        return shards // 9


@pytest.fixture
async def bed(metadata: Metadata, clock: Clock) -> Bed:
    for number in range(1, 10):
        await metadata.save_report(incoming(number))
    return Bed(metadata, clock)


def stored_segments(segment_bytes: int) -> int:
    """Of one content, with the list of them if there are several."""
    count = -(-len(DATA) // segment_bytes)
    return count + (count > 1)


@pytest.mark.parametrize(("old", "new"), CUTS)
@pytest.mark.parametrize("noticed", [True, False])
async def test_a_lost_content_is_healed(bed: Bed, old: int, new: int, noticed: bool) -> None:
    assert await bed.put(old)
    await bed.lose()
    if noticed:
        with pytest.raises(Unreadable):
            await bed.get()
    assert not await bed.put(new)
    assert await bed.get() == DATA
    explained = await bed.metadata.explained(ID, 0, 100)
    assert explained is not None
    assert [s.queued for s in explained.segments] == [None] * stored_segments(new)
    await bed.pass_grace()
    assert await bed.get() == DATA
    assert await bed.segments() == stored_segments(new)
    assert (await bed.metadata.counts())["repair_queue"] == 0


@pytest.mark.parametrize(("old", "new"), CUTS)
async def test_a_read_that_has_begun_goes_on(bed: Bed, old: int, new: int) -> None:
    """Until the grace period is over."""
    await bed.put(old)
    await bed.pass_grace()
    begun = await bed.metadata.find_content(ID)
    assert begun is not None
    await bed.put(new)
    assert await bed.metadata.collect(100) == 0
    bed.clock.now_s += GRACE_S - 1
    assert await bed.metadata.collect(100) == 0
    with paths(bed.metadata, bed.nodes) as (_, reads):
        assert await reads.read_small(begun, 0, len(DATA)) == DATA


@pytest.mark.parametrize(("old", "new"), CUTS)
async def test_a_deleted_content_comes_back_in_its_new_cut(bed: Bed, old: int, new: int) -> None:
    await bed.put(old)
    await bed.lose()
    await bed.metadata.unpin(ID)
    assert await bed.put(new)
    assert await bed.get() == DATA
    await bed.pass_grace()
    assert await bed.get() == DATA
    assert await bed.segments() == stored_segments(new)


async def test_there_and_back_again(bed: Bed) -> None:
    """What is offered to the collector may be needed again before it comes."""
    for segment_bytes in (SMALL, WHOLE, LARGE, SMALL, WHOLE, SMALL):
        await bed.put(segment_bytes)
        assert await bed.get() == DATA
    await bed.pass_grace()
    assert await bed.get() == DATA
    assert await bed.segments() == stored_segments(SMALL)
    await bed.metadata.unpin(ID)
    await bed.pass_grace()
    assert not bed.nodes.shards()


async def test_what_another_content_needs_stays(bed: Bed) -> None:
    """The content as one segment is the first of a longer one's."""
    longer = DATA + b"more"
    await bed.put(len(DATA), longer)
    await bed.put(WHOLE)
    assert await bed.put(SMALL, DATA) is False
    await bed.pass_grace()
    assert await bed.get() == DATA
    assert await bed.get(ContentId(blake3_digest(longer))) == longer

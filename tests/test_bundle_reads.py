"""Reads of contents that lie beside each other in a bundle share what they read."""

import asyncio
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

import pytest

from common.errors import Unreadable
from common.ids import ShardAddress
from common.shards import ShardMissing, ShardRecord
from common.units import KIB, MIB
from coordinator.metadata import Manifest, Metadata
from coordinator.read_path import ReadPath
from tests.bundles import bundled, ids_of
from tests.memory_cluster import KeepingStore, MemoryCluster, paths

CONTENTS = [os.urandom(KIB) for _ in range(60)]  # six shards of ten


class Counting(KeepingStore):
    """Reads wait until the gate is open; the next `failing` fail."""

    def __init__(self) -> None:
        super().__init__()
        self.reads = Counter[int]()  # by the shard's number
        self.gate = asyncio.Event()
        self.gate.set()
        self.failing = False

    async def read(
        self, addresses: Sequence[ShardAddress], into: Sequence[memoryview] | None = None
    ) -> list[ShardRecord | ShardMissing]:
        self.reads.update(address.index for address in addresses)
        await self.gate.wait()
        if self.failing:
            return [ShardMissing(address) for address in addresses]
        return await super().read(addresses, into)


class Bed:
    """One bundle on nine nodes."""

    def __init__(self, nodes: MemoryCluster, reads: ReadPath, manifests: list[Manifest]) -> None:
        self.stores = [store for store in nodes.stores.values() if isinstance(store, Counting)]
        self.reads, self.manifests = reads, manifests

    async def get(self, number: int) -> bytes:
        manifest = self.manifests[number]
        return await self.reads.read_small(manifest, 0, manifest.size_bytes)

    def begin(self) -> list["asyncio.Task[bytes]"]:
        return [asyncio.ensure_future(self.get(number)) for number in range(len(CONTENTS))]

    def read_often(self) -> dict[int, int]:
        """How often each shard was read."""
        return dict(sum((store.reads for store in self.stores), Counter[int]()))

    def open_gates(self, *, are_open: bool) -> None:
        for store in self.stores:
            store.gate.set() if are_open else store.gate.clear()

    async def until_waiting(self) -> None:
        while sum(self.read_often().values()) < 6:
            await asyncio.sleep(0)


async def bed_of(metadata: Metadata, cache_bytes: int) -> Bed:
    nodes = MemoryCluster(make=lambda number: Counting())
    with paths(metadata, nodes, 256 * KIB) as ends:
        await bundled(ends, CONTENTS)
    with paths(metadata, nodes, 256 * KIB, cache_bytes=cache_bytes) as (_, reads):
        manifests = [await reads.find(id_) for id_ in ids_of(CONTENTS)]
        assert {manifest.start_bytes is None for manifest in manifests} == {False}
        assert len({manifest.segments[0].id for manifest in manifests}) == 1
        return Bed(nodes, reads, manifests)


@pytest.mark.parametrize("cache_bytes", [0, 8 * MIB])
async def test_those_that_come_together_read_a_shard_once(
    metadata: Metadata, cache_bytes: int
) -> None:
    bed = await bed_of(metadata, cache_bytes)
    bed.open_gates(are_open=False)
    tasks = bed.begin()
    await bed.until_waiting()
    bed.open_gates(are_open=True)
    assert await asyncio.gather(*tasks) == CONTENTS
    often = bed.read_often()
    assert set(often) == set(range(6))
    assert max(often.values()) <= 3  # one that lies in two shards asks for both


async def test_those_that_follow_find_it_in_memory(metadata: Metadata) -> None:
    bed = await bed_of(metadata, 8 * MIB)
    for number, content in enumerate(CONTENTS):
        assert await bed.get(number) == content
    assert sum(bed.read_often().values()) <= 2 * 6
    before = bed.read_often()
    for number, content in enumerate(CONTENTS):
        assert await bed.get(number) == content
    assert bed.read_often() == before


async def test_without_a_cache_nothing_is_kept(metadata: Metadata) -> None:
    bed = await bed_of(metadata, 0)
    for number in range(10):
        assert await bed.get(number) == CONTENTS[number]
    assert sum(bed.read_often().values()) >= 10


async def test_one_that_gives_up_takes_nobody_with_it(metadata: Metadata) -> None:
    bed = await bed_of(metadata, 8 * MIB)
    bed.open_gates(are_open=False)
    tasks = bed.begin()
    await bed.until_waiting()
    given_up = [task for task in tasks[::3] if task.cancel()]
    await asyncio.wait(given_up)
    bed.open_gates(are_open=True)
    for number, task in enumerate(tasks):
        if task not in given_up:
            assert await task == CONTENTS[number]


async def test_a_failure_is_nobodys_but_its_own(metadata: Metadata) -> None:
    bed = await bed_of(metadata, 8 * MIB)
    bed.open_gates(are_open=False)
    first = asyncio.ensure_future(bed.get(0))
    await asyncio.sleep(0)
    for store in bed.stores:
        store.failing = True
    bed.open_gates(are_open=True)
    with pytest.raises(Unreadable):
        await first
    for store in bed.stores:
        store.failing = False
    assert await asyncio.gather(*bed.begin()) == CONTENTS


async def test_what_is_not_the_content_is_not_kept(metadata: Metadata) -> None:
    """A place that is wrong, as it may be after a rebuild."""
    bed = await bed_of(metadata, 8 * MIB)
    right = bed.manifests[0]
    assert right.start_bytes is not None
    bed.manifests[0] = replace(right, start_bytes=right.start_bytes + 1)
    for often in (1, 2):
        with pytest.raises(Unreadable):
            await bed.get(0)
        assert sum(bed.read_often().values()) == often
    bed.manifests[0] = right
    assert await bed.get(0) == CONTENTS[0]

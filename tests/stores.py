"""Shard stores for tests: one in memory, one with scripted faults, a node's on real sockets; and
shards to put in them."""

import random
from collections import deque
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path

from common.auth import ClusterSecret
from common.errors import Corrupt
from common.hashing import blake3_digest
from common.ids import SegmentId, ShardAddress
from common.shards import (
    Encoding,
    ShardInfo,
    ShardMissing,
    ShardRecord,
    ShardStore,
    StoreStat,
)
from common.units import GIB
from shardd.disk import Disk
from shardd.http import NodeHttp
from shardd.identity import DataDirectory
from shardd.lanes import LaneServer
from shardd.service import LaneLimits
from shardd.store import StoreLimits, VolumeStore
from shardd.throttle import Clocks

SECRET = ClusterSecret(b"the secret of the tests")
CLUSTER_ID = "c1" * 16
CAPACITY_BYTES = GIB


def make_shard(
    size_bytes: int, seed: int = 0, generation: int = 1, index: int = 0, k: int = 6, n: int = 9
) -> ShardRecord:
    """A shard whose content and address follow from the arguments."""
    name = f"{size_bytes} {seed}"
    payload = random.Random(name).randbytes(size_bytes)
    checksum = blake3_digest(payload)
    address = ShardAddress(SegmentId(blake3_digest(name.encode())), generation, index)
    info = ShardInfo(address, k, n, k * size_bytes, Encoding.PLAIN, size_bytes, checksum)
    return ShardRecord(info, payload)


class MemoryStore:
    """The contract in its plainest form."""

    def __init__(self) -> None:
        self.records: dict[ShardAddress, ShardRecord] = {}

    async def append(self, records: Sequence[ShardRecord]) -> None:
        for record in records:
            if not record.is_intact():
                raise Corrupt(f"{record.address}: the payload does not match its checksum")
        for record in records:
            self.records[record.address] = ShardRecord(record.info, bytes(record.payload))

    async def read(
        self, addresses: Sequence[ShardAddress], into: Sequence[memoryview] | None = None
    ) -> list[ShardRecord | ShardMissing]:
        places: Sequence[memoryview | None] = into or [None] * len(addresses)
        return [self._one(a, place) for a, place in zip(addresses, places, strict=True)]

    def _one(self, address: ShardAddress, place: memoryview | None) -> ShardRecord | ShardMissing:
        record = self.records.get(address)
        if record is None:
            return ShardMissing(address)
        if place is not None and len(place) == len(record.payload):
            place[:] = record.payload
            return ShardRecord(record.info, place)
        return record

    async def delete(self, addresses: Sequence[ShardAddress]) -> None:
        for address in addresses:
            self.records.pop(address, None)

    async def stat(self) -> StoreStat:
        used = sum(len(record.payload) for record in self.records.values())
        return StoreStat(CAPACITY_BYTES, used, CAPACITY_BYTES - used, len(self.records))

    async def list(self, after: ShardAddress | None = None) -> AsyncIterator[ShardInfo]:
        for address in sorted(self.records):
            if after is None or address > after:
                yield self.records[address].info


class ScriptedStore:
    """Another store, except for the faults that a test wrote down for it."""

    def __init__(self, store: ShardStore) -> None:
        self._store = store
        self._faults: dict[str, deque[Exception | None]] = {}

    def script(self, method: str, *outcomes: Exception | None) -> None:
        """The next calls of `method` raise these; None lets a call through."""
        self._faults.setdefault(method, deque()).extend(outcomes)

    @property
    def unused(self) -> dict[str, int]:
        """Scripted calls that never came, by method."""
        return {method: len(left) for method, left in self._faults.items() if left}

    def _next(self, method: str) -> None:
        script = self._faults.get(method)
        fault = script.popleft() if script else None
        if fault is not None:
            raise fault

    async def append(self, records: Sequence[ShardRecord]) -> None:
        self._next("append")
        await self._store.append(records)

    async def read(
        self, addresses: Sequence[ShardAddress], into: Sequence[memoryview] | None = None
    ) -> list[ShardRecord | ShardMissing]:
        self._next("read")
        return await self._store.read(addresses, into)

    async def delete(self, addresses: Sequence[ShardAddress]) -> None:
        self._next("delete")
        await self._store.delete(addresses)

    async def stat(self) -> StoreStat:
        self._next("stat")
        return await self._store.stat()

    async def list(self, after: ShardAddress | None = None) -> AsyncIterator[ShardInfo]:
        self._next("list")
        async for info in self._store.list(after):
            yield info


@contextmanager
def scripted(store: ShardStore) -> Iterator[ScriptedStore]:
    """A ScriptedStore; leaving the block fails the test if a scripted fault was not used."""
    wrapped = ScriptedStore(store)
    yield wrapped
    if wrapped.unused:
        raise AssertionError(f"scripted faults were never used: {wrapped.unused}")


@dataclass(frozen=True, slots=True)
class ServedNode:
    """A node of CLUSTER_ID in this process, both its ports open."""

    directory: DataDirectory
    store: VolumeStore
    lanes: LaneServer
    http: NodeHttp
    http_url: str
    data_port: int


@asynccontextmanager
async def served_node(
    path: Path,
    lane_limits: LaneLimits | None = None,
    store_limits: StoreLimits | None = None,
    disk: Disk | None = None,
    clocks: Clocks | None = None,
) -> AsyncIterator[ServedNode]:
    """Runs one until the block ends."""
    directory = DataDirectory(path)
    directory.join(CLUSTER_ID, 1)
    store = await VolumeStore.open(directory, store_limits, disk, clocks)
    lanes, http = LaneServer(store, directory, SECRET, lane_limits), NodeHttp(directory, SECRET)
    http.store = store
    data_port = await lanes.start("127.0.0.1", 0)
    runner, http_port = await http.start("127.0.0.1", 0)
    try:
        url = f"http://127.0.0.1:{http_port}"
        yield ServedNode(directory, store, lanes, http, url, data_port)
    finally:
        await lanes.close()
        await runner.cleanup()
        await store.close()
        directory.close()


def exchange(here: Path, there: Path) -> None:
    """Two directories, as an operator who mounts disks at each other's place."""
    here.rename(aside := here.with_name("aside"))
    there.rename(here)
    aside.rename(there)

"""The volume store: a ShardStore on the volumes of one data directory.

It puts together what the other modules do, and converts between the five verbs and their terms.
Writes: writer.py. Reads: reader.py. Where things are: catalog.py. Start: recovery.py.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TypeVar

from common.errors import SixfoldError, Unavailable
from common.framing import LARGE_PAYLOAD_BYTES
from common.ids import ShardAddress
from common.shards import ShardInfo, ShardMissing, ShardRecord, StoreStat
from common.units import GIB, MIB
from shardd.buffers import BufferPool
from shardd.catalog import Catalog
from shardd.disk import Disk, RealDisk
from shardd.fence import Fence
from shardd.group import Incoming, WriteJob
from shardd.identity import DataDirectory
from shardd.index_seal import leave_index
from shardd.parts import StoreParts
from shardd.reader import RawRecord, Reader
from shardd.recovery import recover
from shardd.room import Room
from shardd.throttle import Clocks
from shardd.upkeep import Upkeep, UpkeepLimits
from shardd.volumes import VolumeSet
from shardd.writer import GroupWriter

log = logging.getLogger(__name__)

T = TypeVar("T")
LIST_PAGE = 1000


@dataclass(frozen=True, slots=True)
class StoreLimits:
    """`capacity_bytes` 0 is the whole filesystem; of it, `reserve_bytes` are for deletes and
    compaction."""

    capacity_bytes: int = 0
    reserve_bytes: int = 64 * MIB
    volume_bytes: int = GIB
    write_buffer_bytes: int = 32 * MIB
    read_buffer_bytes: int = 16 * MIB
    upkeep: UpkeepLimits = field(default_factory=UpkeepLimits)


class VolumeStore:
    """Opened by `open`; lives until `close`."""

    def __init__(
        self,
        directory: DataDirectory,
        disk: Disk,
        volumes: VolumeSet,
        catalog: Catalog,
        limits: StoreLimits,
        clocks: Clocks,
    ) -> None:
        self.write_buffers = BufferPool(limits.write_buffer_bytes)
        self.fence = Fence()  # for those who take deletes from coordinators
        self._directory, self._volumes, self._catalog = directory, volumes, catalog
        self._room = Room(volumes, limits.reserve_bytes, self._make_read_only)
        parts = StoreParts(
            directory, disk, volumes, catalog,
            self._written, self._make_read_only, lambda: self.failure, self._placed, self.read_raw,
            limits.reserve_bytes,
        )  # fmt: skip
        tight_bytes = limits.reserve_bytes + volumes.volume_bytes
        self.upkeep = Upkeep(parts, limits.upkeep, tight_bytes, clocks)
        read_buffers = BufferPool(limits.read_buffer_bytes)
        self._reader = Reader(volumes, catalog, read_buffers, self.upkeep.scrubber.suspect)
        # One thread: a flush, a page of the listing and a count do not run beside each other.
        self._index_thread = ThreadPoolExecutor(1, "shardd-index")
        kept = self.upkeep.quarantine
        self._writer = GroupWriter(
            volumes, catalog, limits.reserve_bytes, self._flush_soon, kept.settle, kept.is_bad
        )
        # Acknowledging goes on being right, but what is there already may not be found any more.
        catalog.tell_damage(lambda damage: self._make_read_only(f"{damage}; a restart mends it"))
        self._flush_planned = self._flush_failed = False

    @classmethod
    async def open(
        cls,
        directory: DataDirectory,
        limits: StoreLimits | None = None,
        disk: Disk | None = None,
        clocks: Clocks | None = None,
    ) -> "VolumeStore":
        """Recover what the directory holds. Raises WrongNode or WrongCluster for a volume that
        is not this node's."""
        limits, disk = limits or StoreLimits(), disk or RealDisk()
        directory.check()
        volumes = VolumeSet(
            directory, disk, limits.capacity_bytes, limits.volume_bytes, limits.reserve_bytes
        )
        try:
            volumes.load()
            found = await recover(disk, volumes, directory.index, directory.identity.node_id)
        except BaseException:
            volumes.close()
            raise
        store = cls(directory, disk, volumes, found.catalog, limits, clocks or Clocks())
        if found.failure is not None:
            store._make_read_only(found.failure)
        try:
            directory.check()  # the index was opened by its path
            await store.upkeep.quarantine.keep_lost(found.lost)
            if store.failure is None:
                found.catalog.apply([], found.checkpoints, 0)
        except BaseException:
            await store.close()
            raise
        return store

    # The five verbs

    async def append(self, records: Sequence[ShardRecord]) -> None:
        await self.write_buffers.room()  # once: a call that needs more than there is must not wait
        await self._written(WriteJob(appends=self._placed(records)))

    def _placed(self, records: Sequence[ShardRecord]) -> list[Incoming]:
        """Raises Unavailable if there is no memory for all of them."""
        placed = list[Incoming]()
        try:
            for record in records:
                placed.append(self._place(record))
        except Unavailable:
            WriteJob(placed).release()
            raise
        return placed

    def _place(self, record: ShardRecord) -> Incoming:
        size = len(record.payload)
        if size < LARGE_PAYLOAD_BYTES:
            return Incoming(record)
        buffer = self.write_buffers.take(size)
        place = buffer.payload(size)
        place[:] = record.payload
        return Incoming(ShardRecord(record.info, place), buffer)

    async def delete(self, addresses: Sequence[ShardAddress]) -> None:
        await self._written(WriteJob(deletes=addresses))

    async def _written(self, job: WriteJob) -> None:
        answer: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        def answered(jobs: Sequence[WriteJob]) -> None:
            job.release()
            if answer.done():
                return  # the caller has gone away
            if job.error is None:
                answer.set_result(None)
            else:
                answer.set_exception(job.error)

        try:
            self.submit([job], answered)
        except SixfoldError:
            job.release()
            raise
        await answer

    async def read(
        self, addresses: Sequence[ShardAddress], into: Sequence[memoryview] | None = None
    ) -> list[ShardRecord | ShardMissing]:
        places: Sequence[memoryview | None] = into or [None] * len(addresses)
        pairs = zip(addresses, places, strict=True)
        return [await self._read_one(address, place) for address, place in pairs]

    async def _read_one(
        self, address: ShardAddress, place: memoryview | None
    ) -> ShardRecord | ShardMissing:
        raw = await self.read_raw(address.key)
        if raw is None:
            return ShardMissing(address)
        try:
            if place is not None and len(place) == len(raw.payload):
                place[:] = raw.payload
                return ShardRecord(raw.info, place)
            return ShardRecord(raw.info, bytes(raw.payload))
        finally:
            raw.release()

    async def stat(self) -> StoreStat:
        """Each report begins with it: so a disk that was swapped, unmounted or emptied is noticed
        within a heartbeat although nothing is written, and the store is read-only from then on."""
        shards = await self._on_index_thread(self._catalog.live)
        detached = await self._on_index_thread(self._room.look)
        return StoreStat(
            self._room.capacity_bytes, self._volumes.used_bytes, self._room.free_bytes, shards,
            self.failure or "", detached,
        )  # fmt: skip

    async def list(self, after: ShardAddress | None = None) -> AsyncIterator[ShardInfo]:
        while page := await self.page(after, LIST_PAGE):
            for info in page:
                yield info
            after = page[-1].address

    # For the lanes and HTTP

    def submit(
        self, jobs: Sequence[WriteJob], answered: Callable[[Sequence[WriteJob]], None]
    ) -> None:
        """Hand jobs to the writer; `answered` follows on the event loop, and must release them.
        Raises Unavailable once the store is closing."""
        self._writer.submit(jobs, answered)
        self.upkeep.quarantine.submitted(jobs)

    def read_raw_now(self, key: bytes) -> RawRecord | None:
        """As Reader.read_now."""
        return self._reader.read_now(key)

    def knows(self, key: bytes) -> bool:
        """As Reader.knows."""
        return self._reader.knows(key)

    async def locate(self, keys: Sequence[bytes]) -> Sequence[bool]:
        """As Reader.locate."""
        return await self._reader.locate(keys)

    def check_absence(self) -> None:
        """As Reader.check_absence."""
        self._reader.check_absence()

    async def read_raw(self, key: bytes) -> RawRecord | None:
        """As Reader.read."""
        return await self._reader.read(key)

    async def page(self, after: ShardAddress | None, limit: int) -> Sequence[ShardInfo]:
        """Up to `limit` shards that follow `after`, in order of address."""
        key = b"" if after is None else after.key
        return await self._on_index_thread(lambda: self._catalog.page(key, limit))

    async def verified_at(self, key: bytes) -> int:
        """As Scrubber.shard_verified_at, in Unix time; 0 never."""
        (place,) = await self._on_index_thread(lambda: self._catalog.find([key]))
        return self.upkeep.scrubber.shard_verified_at(place) if place is not None else 0

    async def compact_once(self) -> int:
        """As Compactor.compact_once."""
        return await self.upkeep.compactor.compact_once()

    async def scrub_once(self) -> bool:
        """As Scrubber.scrub_once."""
        return await self.upkeep.scrubber.scrub_once()

    def _make_read_only(self, reason: str) -> None:
        self._writer.fail(reason)

    @property
    def failure(self) -> str | None:
        """Why the store is read-only, if it is."""
        return self._writer.failure

    async def close(self) -> None:
        """End the upkeep, take no more, finish what was taken, flush, join the threads, close the
        files."""
        await self.upkeep.stop()
        await self._writer.close()
        await self._reader.close()
        await asyncio.to_thread(self._index_thread.shutdown)
        self._flush()
        self._catalog.close()
        if self._catalog.path == self._directory.index:
            is_good = not (self._flush_failed or self._catalog.is_damaged)
            await asyncio.to_thread(leave_index, self._directory, is_good)
        self._volumes.close()

    def _flush_soon(self) -> None:
        if not self._flush_planned:
            self._flush_planned = True
            self._index_thread.submit(self._flush)

    def _flush(self) -> None:
        self._flush_planned = False
        try:
            self._catalog.flush()
            self._flush_failed = False
        except SixfoldError as error:
            # Nothing is lost: memory still has it, and recovery would find it in the volumes.
            self._flush_failed = True
            log.error("%s", error)

    async def _on_index_thread(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._index_thread, work)

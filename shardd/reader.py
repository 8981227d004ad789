"""Reads raw records: header and payload as they lie on disk, which is what a lane sends.

What memory and the page cache have is answered inline; the rest goes to a small thread pool.
Nothing is verified here but that the record is the one asked for: the coordinator verifies.
"""

import asyncio
import logging
import struct
import zlib
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

from common.errors import Corrupt, Unavailable
from common.framing import LARGE_PAYLOAD_BYTES
from common.ids import ShardAddress
from common.record import HEADER_BYTES, RecordKind, unpack_header
from common.shards import ShardInfo
from shardd.buffers import AlignedBuffer, BufferPool
from shardd.catalog import Catalog
from shardd.entries import Location
from shardd.volume import VolumeGone
from shardd.volumes import VolumeSet

log = logging.getLogger(__name__)

T = TypeVar("T")
_THREADS = 4
_SHARD = RecordKind.SHARD
_CRC = struct.Struct("<I")


@dataclass(frozen=True, slots=True)
class RawRecord:
    """`data` is header and payload; `release` must follow its last use."""

    data: memoryview
    buffer: AlignedBuffer | None = None

    @property
    def header(self) -> memoryview:
        return self.data[:HEADER_BYTES]

    @property
    def payload(self) -> memoryview:
        return self.data[HEADER_BYTES:]

    @property
    def info(self) -> ShardInfo:
        return unpack_header(self.header).info

    def release(self) -> None:
        if self.buffer is not None:
            self.buffer.release()


class Reader:
    """Used from the event loop."""

    def __init__(
        self,
        volumes: VolumeSet,
        catalog: Catalog,
        buffers: BufferPool,
        suspect: Callable[[bytes], None],
    ) -> None:
        """`suspect` is told the key of every shard whose record could not be read as it should."""
        self._volumes, self._catalog, self._buffers = volumes, catalog, buffers
        self._suspect = suspect
        self._threads = ThreadPoolExecutor(_THREADS, "shardd-read")

    def read_now(self, key: bytes) -> RawRecord | None:
        """The record if it is small, known and in the page cache. None says nothing."""
        location = self._catalog.recall(key)
        if location is None or not location.live or location.payload_bytes >= LARGE_PAYLOAD_BYTES:
            return None
        volume = self._volumes.by_number.get(location.volume)
        if volume is None:
            return None
        data = memoryview(bytearray(HEADER_BYTES + location.payload_bytes))
        try:
            found = volume.read_nowait(data, location.offset)
        except (OSError, VolumeGone):  # EAGAIN; or what the patient way then deals with
            return None
        return RawRecord(data) if found == len(data) and _is_of(key, data) else None

    def knows(self, key: bytes) -> bool:
        """Whether memory says where the record is, or that it was deleted."""
        return self._catalog.recall(key) is not None

    async def locate(self, keys: Sequence[bytes]) -> list[bool]:
        """For each, whether there is such a shard; normally memory knows where, from then on."""
        return [at is not None for at in await self._run(lambda: self._catalog.find(keys))]

    async def read(self, key: bytes) -> RawRecord | None:
        """The record, or None if there is none. Raises Unavailable or Corrupt if that cannot be
        found out: an error is never an absence."""
        record = self.read_now(key)
        if record is not None:
            return record
        looked_at: Location | None = None
        while (location := await self._place_of(key)) is not None:
            if location == looked_at:
                self._suspect(key)
                address = ShardAddress.from_key(key)
                raise Corrupt(f"{address} is in volume {location.volume}, which is gone")
            try:
                return await self._read_at(key, location)
            except VolumeGone:
                looked_at = location  # compaction has moved it meanwhile
            except Corrupt:
                self._suspect(key)
                raise
        self.check_absence()
        return None

    def check_absence(self) -> None:
        """Raises Unavailable if what is not known may be there all the same. Not because of single
        places that could not be read: they may stay so, and what is missing is repaired."""
        if self._volumes.unopened:
            raise Unavailable(f"it may be there: {self._volumes.failure}")

    async def _place_of(self, key: bytes) -> Location | None:
        location = self._catalog.recall(key)
        if location is None:
            location = (await self._run(lambda: self._catalog.find([key])))[0]
        return location if location is not None and location.live else None

    async def _read_at(self, key: bytes, location: Location) -> RawRecord:
        if location.payload_bytes >= LARGE_PAYLOAD_BYTES:
            return await self._read_large(key, location)
        data = memoryview(bytearray(HEADER_BYTES + location.payload_bytes))
        await self._run(lambda: self._fill(key, location, data))
        return RawRecord(data)

    async def _read_large(self, key: bytes, location: Location) -> RawRecord:
        buffer = await self._buffers.acquire(location.payload_bytes)
        data = buffer.record(location.payload_bytes)
        place = buffer.whole(location.payload_bytes)
        reading = asyncio.ensure_future(self._run(lambda: self._fill(key, location, place)))
        try:
            await asyncio.shield(reading)
        except asyncio.CancelledError:
            # A thread still reads into the buffer: it goes back only after that.
            reading.add_done_callback(lambda _: buffer.release())
            raise
        except BaseException:
            buffer.release()
            raise
        return RawRecord(data, buffer)

    def _fill(self, key: bytes, location: Location, place: memoryview) -> None:
        """Read the record, and its padding if there is place, on a thread. Raises VolumeGone, or
        Corrupt, logged, if something else stands there or the disk cannot read it."""
        volume = self._volumes.by_number.get(location.volume)
        address = ShardAddress.from_key(key)
        if volume is None:
            raise VolumeGone(f"volume {location.volume}")
        try:
            found = volume.read(place, location.offset)
        except OSError as error:
            raise Corrupt(f"{address} cannot be read from {volume.path}: {error}") from None
        data = place[: HEADER_BYTES + location.payload_bytes]
        if found < len(data) or not _is_of(key, data):
            log.error("bad record: %s is not at %d of %s", address, location.offset, volume.path)
            raise Corrupt(f"{address} is not where it should be in {volume.path}")

    async def _run(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._threads, work)

    async def close(self) -> None:
        """Wait for the reads that run."""
        await asyncio.to_thread(self._threads.shutdown)


def _is_of(key: bytes, data: memoryview) -> bool:
    """Whether `data` is a shard's record under that address and of that length. Looks at the
    fields in place (common/record.py): this is done for every read."""
    generation, index = key[32:40], key[40]
    return (
        data[5] == _SHARD
        and data[6] == index
        and data[40:72] == key[:32]
        and bytes(data[24:32]) == generation[::-1]
        and int.from_bytes(data[12:16], "little") == len(data) - HEADER_BYTES
        and _CRC.unpack_from(data, HEADER_BYTES - _CRC.size)[0]
        == zlib.crc32(data[: HEADER_BYTES - _CRC.size])
    )

"""The read path: a content's verified bytes, a few segments ahead of the reader.

What cannot be verified is never handed out. The first segment is fetched before anything is
answered, so that an unreadable content is an error and not a broken answer.
"""

import contextlib
import time
from collections.abc import AsyncIterator, Callable
from functools import partial

from common.errors import NotFound, Unreadable
from common.hashing import blake3_digest
from common.ids import ContentId
from common.shards import Encoding
from coordinator.buffers import StripeBuffer
from coordinator.bundle_reads import BundleReads
from coordinator.cache import Cache
from coordinator.durability import Durability, durability_of
from coordinator.letting_go import let_go
from coordinator.metadata import Manifest, StoredSegment
from coordinator.read_ahead import LATER_SEGMENT_WAIT_S, Piece, ReadAhead
from coordinator.read_segment import SegmentReads, Slice
from coordinator.services import Services
from coordinator.stripe_rows import WholeStripe

# What is kept in memory: the bytes of one act of writing a segment, or of a content in a bundle.
Kept = tuple[bytes, int]
IN_A_BUNDLE = 0  # no generation


class ReadPath:
    """Reads contents. One for the process."""

    def __init__(self, services: Services) -> None:
        config = services.config
        self._config, self._services = config, services
        self._metadata, self._buffers = services.metadata, services.buffers
        self._cache = Cache[Kept](config.cache_bytes * 7 // 8, config.cache_segment_bytes)
        self._segments = SegmentReads(services)
        self._bundles = BundleReads(services, self._segments)

    async def find(self, id_: ContentId) -> Manifest:
        """Raises NotFound, Unreadable if the metadata does not know all of its segments."""
        manifest = await self._metadata.find_content(id_)
        if manifest is None:
            raise NotFound(f"no such content: {id_}")
        if not manifest.is_complete:
            raise Unreadable(f"the metadata has lost segments of {id_}")  # others would shift
        return manifest

    def durability(self, manifest: Manifest) -> Durability:
        """As things are now."""
        return durability_of(manifest.segments, self._services.cluster.membership.is_lasting)

    @contextlib.asynccontextmanager
    async def open(
        self, manifest: Manifest, start: int, end: int
    ) -> AsyncIterator[AsyncIterator[Piece]]:
        """Iterates over the bytes [start, end) in pieces. Raises Unreadable or Overloaded
        on entry if the first piece cannot be had, while iterating if a later one cannot."""
        ahead = ReadAhead(
            slices_of(manifest, start, end),
            self._fetch,
            self._buffers,
            self._config.segments_in_flight,
            time.monotonic,
        )
        try:
            await ahead.start(self._config.admission_wait_s)
            yield ahead.pieces()
        finally:
            await ahead.close()

    async def read_small(self, manifest: Manifest, start: int, end: int) -> bytes:
        """The bytes [start, end), few enough to leave in one write. Raises as `open`."""
        wait_s = self._config.admission_wait_s
        if manifest.start_bytes is not None:
            return (await self._read_bundled(manifest, wait_s))[start:end]
        slices = slices_of(manifest, start, end)
        return b"".join([await self._read_out(part, wait_s) for part in slices])

    async def _read_bundled(self, manifest: Manifest, wait_s: float) -> bytes:
        """All of a content that is in a bundle. What nodes and database say may fit together and
        yet be wrong, after a rebuild; its id is certain, and it is small."""
        key = (manifest.id, IN_A_BUNDLE)
        cached = self._cache.get(key)
        if cached is not None:
            return cached
        (part,) = slices_of(manifest, 0, manifest.size_bytes)
        plain = await self._bundles.read(part, wait_s)
        if blake3_digest(plain) != manifest.id:
            self._bundles.forget(part)
            raise Unreadable(f"{manifest.id} is not where it should be in {part.segment.id}")
        self._cache.put(key, plain)
        return plain

    async def read_segment(self, segment: StoredSegment) -> bytes:
        """The verified plain bytes of one segment. Raises Unreadable or Overloaded."""
        return await self._read_out(Slice(segment, 0, segment.size_bytes), LATER_SEGMENT_WAIT_S)

    async def check(self, manifest: Manifest) -> None:
        """Raises Unreadable unless the nodes have all of it, whatever the cache has."""
        for part in slices_of(manifest, 0, manifest.size_bytes):
            size_bytes = self._stripe_bytes(part.segment)
            buffer = await self._buffers.acquire_behind(size_bytes, LATER_SEGMENT_WAIT_S)
            (await self._fill(part, buffer)).release()

    async def has(self, segment: StoredSegment) -> bool:
        """Whether the nodes have this act of writing it, and it is what its id says. Nothing of it
        goes into the cache. Raises Overloaded."""
        size_bytes = self._stripe_bytes(segment)
        buffer = await self._buffers.acquire_behind(size_bytes, LATER_SEGMENT_WAIT_S)
        stripe, whole = buffer.memory[:size_bytes], Slice(segment, 0, segment.size_bytes)
        plain = stripe[: segment.size_bytes]
        try:
            rows = WholeStripe(self._services.codec, stripe, segment)
            await self._segments.read_here(whole, rows)
            digest = await self._services.offload.run(len(plain), lambda: blake3_digest(plain))
        except Unreadable:
            return False
        finally:
            buffer.abandon()  # a late shard may still arrive in it
        return digest == segment.id

    async def _read_out(self, part: Slice, wait_s: float) -> bytes:
        """A copy of one verified slice, or the cache's own bytes."""
        piece = await self._fetch(part, wait_s)
        plain = bytes(piece.data)
        piece.release()
        return plain

    async def settle(self) -> None:
        """Wait until what reads found out is in the repair queue."""
        await self._segments.settle()

    def _stripe_bytes(self, segment: StoredSegment) -> int:
        return segment.n * segment.shard_bytes

    async def _fetch(self, part: Slice, wait_s: float, buffer: StripeBuffer | None = None) -> Piece:
        """One verified slice."""
        segment = part.segment
        key = (segment.id, segment.generation)
        cached = None if segment.all_known_bad else self._cache.get(key)
        if cached is not None:
            if buffer is not None:
                buffer.release()
            whole = part.end - part.start == len(cached)
            return Piece(cached if whole else memoryview(cached)[part.start : part.end], None)
        return await self._fill(
            part, buffer or await self._buffers.acquire(self._stripe_bytes(segment), wait_s)
        )

    async def _fill(self, part: Slice, buffer: StripeBuffer) -> Piece:
        """The same past the cache. The buffer is abandoned if it raises."""
        segment = part.segment
        is_bundle = bool(segment.encoding & Encoding.BUNDLE)
        to_keep = not is_bundle and segment.size_bytes <= self._cache.largest_bytes
        whole = to_keep or segment.all_known_bad
        wanted = Slice(segment, 0, segment.size_bytes) if whole else part
        try:
            await self._segments.read(wanted, self._rows_in(buffer, segment))
            if segment.all_known_bad:
                await self._check_id(segment, buffer)
        except BaseException as error:
            let_go(error)
            buffer.abandon()
            raise
        if to_keep:
            key = (segment.id, segment.generation)
            self._cache.put(key, buffer.memory[: segment.size_bytes])
        plain = buffer.memory[part.start : part.end]
        if len(plain) <= len(buffer.memory) // 4:  # do not hold all of it
            buffer = self._buffers.exchange(buffer, plain)
            plain = buffer.memory[: len(plain)]
        return Piece(plain, buffer)

    async def _check_id(self, segment: StoredSegment, buffer: StripeBuffer) -> None:
        """Its shards were found not to belong together, or not to its id. The data among them may
        be right all the same."""
        plain = buffer.memory[: segment.size_bytes]
        digest = await self._services.offload.run(len(plain), lambda: blake3_digest(plain))
        if digest != segment.id:
            raise Unreadable(
                f"the shards of segment {segment.id} give other bytes than its id says"
            )

    def _rows_in(
        self, buffer: StripeBuffer, segment: StoredSegment
    ) -> Callable[[StoredSegment], WholeStripe]:
        """No view of the buffer stays with the caller: an error that goes through would keep it."""
        stripe = buffer.memory[: self._stripe_bytes(segment)]
        return partial(WholeStripe, self._services.codec, stripe)


def slices_of(manifest: Manifest, start: int, end: int) -> list[Slice]:
    """The parts of the segments that make up the bytes [start, end) of their content."""
    slices, at = [], -(manifest.start_bytes or 0)
    for segment in manifest.segments:
        low, high = max(start - at, 0), min(end - at, segment.size_bytes)
        if low < high:
            slices.append(Slice(segment, low, high))
        at += segment.size_bytes
    return slices

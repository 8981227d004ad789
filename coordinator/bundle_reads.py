"""Reads from bundles, by whole shards: who wants a content wants its neighbours soon.

Contents that were stored at the same time are often read together, as a directory is when it is
restored. Then a shard that ten of them lie in is read once for all: those that want it while it is
on its way wait for it, and it stays for a little while.
"""

import asyncio
from collections.abc import Sequence
from functools import partial

from common.ids import SegmentId
from coordinator.cache import Cache
from coordinator.read_segment import SegmentReads, Slice
from coordinator.services import Services
from coordinator.stripe_rows import FewRows

Row = tuple[SegmentId, int]  # a bundle's bytes are its id's, so the shard's number says which


class BundleReads:
    """One for the process."""

    def __init__(self, services: Services, segments: SegmentReads) -> None:
        config = services.config
        self._services, self._segments = services, segments
        self._kept = Cache[Row](config.cache_bytes // 8, config.cache_segment_bytes)
        self._coming: dict[Row, asyncio.Future[bytes | None]] = {}

    async def read(self, part: Slice, wait_s: float) -> bytes:
        """A slice, of verified shards. Raises Unreadable, or Overloaded if there is no memory for
        its stripe within `wait_s`."""
        wanted = _rows_of(part)
        rows = await self._at_hand(wanted)
        if rows is None:
            rows = await self._fetch(part, wanted, wait_s)
        at = wanted[0][1] * part.segment.shard_bytes
        return b"".join(rows)[part.start - at : part.end - at]

    def forget(self, part: Slice) -> None:
        """Read this slice from the nodes the next time."""
        for row in _rows_of(part):
            self._kept.drop(row)

    async def _at_hand(self, wanted: Sequence[Row]) -> list[bytes] | None:
        """Those that are kept or on their way; None if that is not all of them."""
        rows = []
        for row in wanted:
            coming = self._coming.get(row)
            plain = self._kept.get(row) if coming is None else await asyncio.shield(coming)
            if plain is None:
                return None
            rows.append(plain)
        return rows

    async def _fetch(self, part: Slice, wanted: Sequence[Row], wait_s: float) -> list[bytes]:
        """From the nodes. Who waits for one of these and does not get it tries for itself."""
        loop = asyncio.get_running_loop()
        ours = {row: loop.create_future() for row in wanted if row not in self._coming}
        self._coming.update(ours)
        found: dict[Row, bytes] = {}
        try:
            found = await self._read(part, wanted, wait_s)
            return list(found.values())
        finally:
            for row, coming in ours.items():
                del self._coming[row]
                coming.set_result(found.get(row))

    async def _read(self, part: Slice, wanted: Sequence[Row], wait_s: float) -> dict[Row, bytes]:
        # It counts as all of the stripe, which it may come to.
        size_bytes = part.segment.n * part.segment.shard_bytes
        async with self._services.buffers.room(size_bytes, wait_s):
            rows = await self._segments.read(part, partial(FewRows, self._services.codec))
            found = {row: bytes(rows[row[1]]) for row in wanted}
        for row, plain in found.items():
            self._kept.put(row, plain)
        return found


def _rows_of(part: Slice) -> list[Row]:
    segment = part.segment
    first, behind = part.start // segment.shard_bytes, -(-part.end // segment.shard_bytes)
    return [(segment.id, index) for index in range(first, behind)]

"""Gives the space of deleted small contents back: of bundles of which most is not needed any more,
the rest is moved into new ones. The old ones go as all that is deleted goes."""

import logging
from collections.abc import Iterable, Iterator, Sequence

from common.bundle import HEAD_BYTES
from common.errors import SixfoldError, Unreadable
from common.hashing import blake3_digest
from coordinator.bundler import BUNDLE_BYTES, Bundler, Small
from coordinator.metadata import Bundled, Metadata, StoredSegment
from coordinator.read_path import ReadPath
from coordinator.throttle import Throttle

log = logging.getLogger(__name__)

AT_ONCE = 8  # bundles in one step


class RebundleWorker:
    """The job."""

    name = "rebundle"
    rest_s = 10.0

    def __init__(
        self, metadata: Metadata, reads: ReadPath, bundler: Bundler, throttle: Throttle
    ) -> None:
        self._rebundling, self._reads = metadata.rebundling, reads
        self._bundler, self._throttle = bundler, throttle

    async def step(self) -> bool:
        found = await self._rebundling.wasteful(AT_ONCE)
        smalls = list[Small]()
        for bundle, contents in found:
            try:
                smalls += await self._read(bundle, contents)
            except SixfoldError as error:
                log.warning("bundle %s cannot be read: %s", bundle.id, error)
                await self._rebundling.not_now(bundle.id)
        for group in groups(smalls):
            await self._throttle.spend(sum(len(small.plain) for small in group))
            await self._bundler.move(group)
        return len(found) == AT_ONCE

    async def _read(self, bundle: StoredSegment, contents: Sequence[Bundled]) -> list[Small]:
        """Raises Unreadable, also if a content is not what its id says."""
        whole = memoryview(await self._reads.read_segment(bundle))
        smalls = []
        for part in contents:
            plain = whole[part.start_bytes : part.start_bytes + part.size_bytes]
            if blake3_digest(plain) != part.id:
                raise Unreadable(f"{part.id} is not where it should be")
            smalls.append(Small(part.id, plain, part.moved_from))
        return smalls


def groups(smalls: Iterable[Small]) -> Iterator[list[Small]]:
    """As many at a time as a bundle may hold."""
    group, size_bytes = list[Small](), HEAD_BYTES
    for small in smalls:
        if size_bytes + small.room_bytes > BUNDLE_BYTES:
            yield group
            group, size_bytes = [], HEAD_BYTES
        group.append(small)
        size_bytes += small.room_bytes
    if group:
        yield group

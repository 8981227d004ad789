"""The write path: bytes come in, a durable and visible content goes out, or nothing at all."""

import asyncio
import logging
from collections.abc import AsyncIterator

from common.errors import SixfoldError
from common.failpoints import Point, failpoint
from common.ids import ContentId
from coordinator.bundler import Bundler
from coordinator.letting_go import let_go
from coordinator.metadata import DeleteReason, ShardsOnNode
from coordinator.services import Services
from coordinator.write_upload import Stored, Upload

log = logging.getLogger(__name__)


class WritePath:
    """Stores contents. One for the process."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self.bundler = Bundler(services, self._discard)
        self._cleanups: set[asyncio.Task[None]] = set()

    async def store(
        self,
        body: AsyncIterator[bytes],
        declared_bytes: int | None = None,
        expected: ContentId | None = None,
    ) -> Stored:
        """Store what `body` yields, which must be `declared_bytes` if that is known.

        Raises IncompleteBody, BadRequest, TooLarge, IdMismatch, Overloaded, Undurable,
        StorageFull, or what `body` raises; then nothing is visible and what was written is
        deleted.
        """
        upload = Upload(self._services, self.bundler)
        try:
            return await upload.run(body, declared_bytes, expected)
        except BaseException as error:
            self._discard(upload.leftovers())
            let_go(error)
            if isinstance(error, BaseExceptionGroup):
                raise _first_cause(error) from None
            raise

    async def settle(self) -> None:
        """Wait until bundles are written, and what failed uploads left behind is on its way out."""
        await self.bundler.settle()
        while self._cleanups:
            await asyncio.wait(self._cleanups)

    def _discard(self, leftovers: list[ShardsOnNode]) -> None:
        if leftovers:
            task = asyncio.create_task(self._queue_deletes(leftovers), name="discard upload")
            self._cleanups.add(task)
            task.add_done_callback(self._cleanups.discard)

    async def _queue_deletes(self, leftovers: list[ShardsOnNode]) -> None:
        try:
            await self._services.metadata.add_deletes(leftovers, DeleteReason.LEFTOVER)
            failpoint(Point.UPLOAD_DISCARDED)
        except SixfoldError as error:
            log.error("shards of a failed upload stay behind as orphans: %s", error)


def _first_cause(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """The error to answer with: what sixfold itself raised before anything that followed."""
    causes = [
        _first_cause(error) if isinstance(error, BaseExceptionGroup) else error
        for error in group.exceptions
    ]
    return next((error for error in causes if isinstance(error, SixfoldError)), causes[0])

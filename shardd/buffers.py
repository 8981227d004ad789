"""Page-aligned memory for large records, reused: what the socket fills, O_DIRECT writes.

A buffer holds a record as a large volume does: header, payload, zeros to 4 KiB. Used from the
event loop's thread only.
"""

import asyncio
import mmap
from collections import deque
from collections.abc import Callable

from common.record import HEADER_BYTES
from common.units import KIB
from shardd.volume import VolumeClass, align_up

_STEP_BYTES = 64 * KIB  # sizes are rounded up to this, so that shards of one size share buffers


class AlignedBuffer:
    """Lent by a pool until `release`, which must be called exactly once."""

    __slots__ = ("_pool", "view")

    def __init__(self, pool: "BufferPool", size_bytes: int) -> None:
        self._pool = pool
        self.view = memoryview(mmap.mmap(-1, size_bytes))  # anonymous, so page-aligned

    def record(self, payload_bytes: int) -> memoryview:
        """Header and payload."""
        return self.view[: HEADER_BYTES + payload_bytes]

    def payload(self, payload_bytes: int) -> memoryview:
        return self.view[HEADER_BYTES : HEADER_BYTES + payload_bytes]

    def padded(self, payload_bytes: int) -> memoryview:
        """The record with zeros after it, as it goes to disk."""
        end, span = HEADER_BYTES + payload_bytes, VolumeClass.LARGE.span(payload_bytes)
        self.view[end:span] = bytes(span - end)
        return self.view[:span]

    def release(self) -> None:
        self._pool.give_back(self)


class BufferPool:
    """Lends buffers up to `limit_bytes`.

    `take` never waits, since a payload that has begun to arrive needs its place now: who takes
    while the pool is exhausted must stop reading until `when_room`. So a lane can exceed the
    limit by what one arrival starts and no more.
    """

    def __init__(self, limit_bytes: int) -> None:
        self.limit_bytes = limit_bytes
        self.lent_bytes = 0
        self._idle: dict[int, list[AlignedBuffer]] = {}
        self._idle_bytes = 0
        self._waiting: deque[Callable[[], None]] = deque()

    @property
    def exhausted(self) -> bool:
        return self.lent_bytes >= self.limit_bytes

    def take(self, payload_bytes: int) -> AlignedBuffer:
        """A buffer for a record with such a payload, its content arbitrary."""
        size = align_up(VolumeClass.LARGE.span(payload_bytes), _STEP_BYTES)
        self.lent_bytes += size
        same_size = self._idle.get(size)
        if same_size:
            self._idle_bytes -= size
            return same_size.pop()
        self._drop_idle()
        return AlignedBuffer(self, size)

    def give_back(self, buffer: AlignedBuffer) -> None:
        size = len(buffer.view)
        self.lent_bytes -= size
        if self.lent_bytes + self._idle_bytes + size <= self.limit_bytes:
            self._idle.setdefault(size, []).append(buffer)
            self._idle_bytes += size
        while self._waiting and not self.exhausted:
            self._waiting.popleft()()

    def when_room(self, callback: Callable[[], None]) -> None:
        """Call it once, in turn with others, when the pool is exhausted no longer."""
        self._waiting.append(callback)

    async def room(self) -> None:
        """Wait until the pool is not exhausted."""
        while self.exhausted:
            room: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self.when_room(lambda room=room: room.done() or room.set_result(None))  # type: ignore[misc]
            await room

    async def acquire(self, payload_bytes: int) -> AlignedBuffer:
        """A buffer, after waiting in turn for room."""
        if not self.exhausted and not self._waiting:
            return self.take(payload_bytes)
        lent: asyncio.Future[AlignedBuffer] = asyncio.get_running_loop().create_future()

        def lend() -> None:
            if lent.done():
                return  # given up meanwhile
            lent.set_result(self.take(payload_bytes))

        self.when_room(lend)
        try:
            return await lent
        except asyncio.CancelledError:
            if lent.done() and not lent.cancelled():
                lent.result().release()
            raise

    def _drop_idle(self) -> None:
        """Other sizes make room: what is idle and what is lent stay under the limit together."""
        while self._idle_bytes and self.lent_bytes + self._idle_bytes > self.limit_bytes:
            size = next(size for size, idle in self._idle.items() if idle)
            self._idle[size].pop()
            self._idle_bytes -= size

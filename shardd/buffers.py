"""Page-aligned memory for large records, reused: what the socket fills, O_DIRECT writes.

A buffer holds a record as a large volume does: header, payload, zeros to 4 KiB. Used from the
event loop's thread only.
"""

import asyncio
import mmap
from collections import deque
from collections.abc import Callable

from common.errors import Unavailable
from common.record import HEADER_BYTES
from common.units import KIB
from shardd.volume import VolumeClass, align_up

_STEP_BYTES = 64 * KIB  # sizes are rounded up to this, so that shards of one size share buffers


class AlignedBuffer:
    """Lent by a pool until `release`, which must be called exactly once."""

    __slots__ = ("_pool", "counted", "view")

    def __init__(self, pool: "BufferPool", size_bytes: int) -> None:
        self._pool = pool
        self.counted = False  # towards the pool's limit
        self.view = memoryview(mmap.mmap(-1, size_bytes))  # anonymous, so page-aligned

    def record(self, payload_bytes: int) -> memoryview:
        """Header and payload."""
        return self.view[: HEADER_BYTES + payload_bytes]

    def payload(self, payload_bytes: int) -> memoryview:
        return self.view[HEADER_BYTES : HEADER_BYTES + payload_bytes]

    def whole(self, payload_bytes: int) -> memoryview:
        """The record and its padding."""
        return self.view[: VolumeClass.LARGE.span(payload_bytes)]

    def padded(self, payload_bytes: int) -> memoryview:
        """The same, with the padding zeroed, as it goes to disk."""
        whole, end = self.whole(payload_bytes), HEADER_BYTES + payload_bytes
        whole[end:] = bytes(len(whole) - end)
        return whole

    def release(self) -> None:
        self._pool.give_back(self)


class BufferPool:
    """Lends buffers up to `limit_bytes`.

    A payload that has begun to arrive needs its place now, so `lend` never waits: when the pool
    is exhausted it lends a buffer that does not count yet, and whoever has it stops reading until
    it does. What such buffers hold is thus bounded by what one arrival brings, per lane. They
    must not count while they wait: paused readers would keep the pool exhausted for ever.
    """

    def __init__(self, limit_bytes: int) -> None:
        self.limit_bytes = limit_bytes
        self.lent_bytes = 0
        self._idle: dict[int, list[AlignedBuffer]] = {}
        self._idle_bytes = 0
        self._waiting: deque[Callable[[], None]] = deque()
        self._uncounted: dict[AlignedBuffer, Callable[[], None]] = {}

    @property
    def exhausted(self) -> bool:
        return self.lent_bytes >= self.limit_bytes or bool(self._waiting)

    def take(self, payload_bytes: int) -> AlignedBuffer:
        """A buffer for a record with such a payload, its content arbitrary; beyond the limit if
        need be. Raises Unavailable, as all that lend, if there is no memory for it."""
        buffer = self._get(payload_bytes)
        self._count(buffer)
        return buffer

    def lend(self, payload_bytes: int, go_on: Callable[[], None]) -> AlignedBuffer:
        """As `take`. Unless the buffer comes back `counted`, the caller stops filling it until
        `go_on` is called, once: in turn when there is room, or when it is given back."""
        if not self.exhausted:
            return self.take(payload_bytes)
        buffer = self._get(payload_bytes)
        self._uncounted[buffer] = go_on
        self._waiting.append(lambda: self._admit(buffer))
        return buffer

    async def acquire(self, payload_bytes: int) -> AlignedBuffer:
        """A buffer, after waiting in turn for room."""
        if not self.exhausted:
            return self.take(payload_bytes)
        lent: asyncio.Future[AlignedBuffer] = asyncio.get_running_loop().create_future()

        def admit() -> None:
            if lent.done():
                return  # given up meanwhile
            try:
                lent.set_result(self.take(payload_bytes))
            except Unavailable as error:  # is told to him whose turn it was, not to who gave back
                lent.set_exception(error)

        self._waiting.append(admit)
        try:
            return await lent
        except asyncio.CancelledError:
            if lent.done() and not lent.cancelled() and lent.exception() is None:
                lent.result().release()
            raise

    async def room(self) -> None:
        """Wait in turn until the pool is not exhausted. Takes nothing: for a buffer of the least
        size, an idle one of another size would have to go."""
        if self.exhausted:
            turn = asyncio.Event()
            self._waiting.append(turn.set)
            await turn.wait()

    def give_back(self, buffer: AlignedBuffer) -> None:
        size = len(buffer.view)
        if buffer.counted:
            buffer.counted = False
            self.lent_bytes -= size
        else:
            self._uncounted.pop(buffer)()
        if self.lent_bytes + self._idle_bytes + size <= self.limit_bytes:
            self._idle.setdefault(size, []).append(buffer)
            self._idle_bytes += size
        while self._waiting and self.lent_bytes < self.limit_bytes:
            self._waiting.popleft()()

    def _admit(self, buffer: AlignedBuffer) -> None:
        go_on = self._uncounted.pop(buffer, None)
        if go_on is not None:  # not given back meanwhile
            self._count(buffer)
            go_on()

    def _count(self, buffer: AlignedBuffer) -> None:
        buffer.counted = True
        self.lent_bytes += len(buffer.view)

    def _get(self, payload_bytes: int) -> AlignedBuffer:
        size = align_up(VolumeClass.LARGE.span(payload_bytes), _STEP_BYTES)
        same_size = self._idle.get(size)
        if same_size:
            self._idle_bytes -= size
            return same_size.pop()
        self._drop_idle(size)
        try:
            return AlignedBuffer(self, size)
        except (OSError, MemoryError) as error:
            raise Unavailable(f"no memory for a buffer now: {error}") from None

    def _drop_idle(self, needed: int) -> None:
        """Other sizes make room: what is idle and what is lent stay under the limit together."""
        while self._idle_bytes and self.lent_bytes + self._idle_bytes + needed > self.limit_bytes:
            size = next(size for size, idle in self._idle.items() if idle)
            self._idle[size].pop()
            self._idle_bytes -= size

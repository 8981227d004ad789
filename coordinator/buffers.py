"""Memory for stripes, counted: the bound on what all uploads and downloads hold together, those
included that have gone away and left memory to a socket that is not done with it.

Large buffers are anonymous mappings that are used again, since fresh ones cost a page fault for
every 4 KiB; small ones are plain bytearrays.
"""

import asyncio
import contextlib
import gc
import mmap
import weakref
from collections import deque
from collections.abc import AsyncIterator, Callable
from types import TracebackType
from typing import Self

from common.errors import Overloaded
from common.units import KIB, MIB

# Beyond the budget, for small buffers alone: slow large transfers, which may hold the whole budget
# for a while, must not keep small requests out.
SMALL_RESERVE_BYTES = 16 * MIB
GIVE_WAY_S, LOOK_S = 10.0, 0.1
LOOK_AGAIN_S = 0.2  # while somebody waits: collecting garbage takes some hundredths of a second
# From here on a buffer is pooled, in sizes a sixteenth of a power of two apart.
POOLED_BYTES = 256 * KIB


class _Bytes(bytearray):
    """A bytearray of which one can learn when it goes."""

    __slots__ = ("__weakref__",)


class StripeBuffer:
    """`memory` has at least the size asked for. Give it back with `release`, or with `abandon`
    while someone (a socket, a node that is being written to) may still look at it."""

    __slots__ = ("_owner", "_size_bytes", "memory")

    def __init__(self, owner: "StripeBuffers", memory: memoryview) -> None:
        self._owner, self.memory, self._size_bytes = owner, memory, len(memory)

    def release(self) -> None:
        """The memory may be used again. Doing it twice is harmless."""
        if self._size_bytes:
            size_bytes, self._size_bytes = self._size_bytes, 0
            memory, self.memory = self.memory, memoryview(b"")
            self._owner.take_back(size_bytes, memory)

    def abandon(self) -> None:
        """The memory goes, and is no longer counted, when the last view of it does. Twice, or
        after `release`, is harmless."""
        if self._size_bytes:
            size_bytes, self._size_bytes = self._size_bytes, 0
            memory, self.memory = self.memory, memoryview(b"")
            self._owner.watch(size_bytes, memory.obj)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        # After a failure a thread or a socket may still be at work on the memory.
        self.release() if kind is None else self.abandon()


class StripeBuffers:
    """A budget of `budget_bytes` and the pool of buffers under it. Waiters are served in order."""

    def __init__(self, budget_bytes: int) -> None:
        self.budget_bytes = budget_bytes
        self.used_bytes = 0
        self._idle: dict[int, list[memoryview]] = {}
        self._idle_bytes = 0
        self._waiting: deque[tuple[int, asyncio.Future[None]]] = deque()
        self._abandoned_bytes = 0
        self._look: asyncio.TimerHandle | None = None
        # Of whoever may hold more than he needs: each call gives some of it back, or begins to, and
        # says how many bytes, or None if there is no more.
        self.givers: dict[object, Callable[[], int | None]] = {}

    @property
    def held_bytes(self) -> int:
        """What is in use and what is kept for use again."""
        return self.used_bytes + self._idle_bytes

    async def acquire(self, size_bytes: int, wait_s: float) -> StripeBuffer:
        """Raises Overloaded if there is no room within `wait_s`."""
        return self._make(await self._admit(size_bytes, wait_s))

    @contextlib.asynccontextmanager
    async def room(self, size_bytes: int, wait_s: float) -> AsyncIterator[None]:
        """As if a buffer was taken, for who makes the memory that it needs piece by piece."""
        admitted_bytes = await self._admit(size_bytes, wait_s)
        try:
            yield
        finally:
            self.take_back(admitted_bytes, None)

    async def _admit(self, size_bytes: int, wait_s: float) -> int:
        """Counts from now on: how much that is."""
        size_bytes = self._rounded(size_bytes)
        if self._may_pass(size_bytes):
            self.used_bytes += size_bytes
            return size_bytes
        place: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        entry = (size_bytes, place)
        self._waiting.append(entry)
        self._ask_back()
        self._look_soon()
        try:
            async with asyncio.timeout(wait_s):
                await place  # whoever calls us on has counted it
        except BaseException as error:
            self._leave_queue(entry)
            if isinstance(error, TimeoutError):
                raise Overloaded("too many transfers at once; try again shortly") from None
            raise
        return size_bytes

    async def acquire_behind(self, size_bytes: int, wait_s: float) -> StripeBuffer:
        """For work that can wait: gives way to all others for `GIVE_WAY_S`, and only then stands
        in line with them. Raises Overloaded as `acquire` does."""
        for _ in range(round(GIVE_WAY_S / LOOK_S)):
            if buffer := self.try_acquire(size_bytes):
                return buffer
            await asyncio.sleep(LOOK_S)
        return await self.acquire(size_bytes, wait_s)

    def try_acquire(self, size_bytes: int) -> StripeBuffer | None:
        """A buffer if there is room now and nobody waits."""
        size_bytes = self._rounded(size_bytes)
        if not self._may_pass(size_bytes):
            return None
        self.used_bytes += size_bytes
        return self._make(size_bytes)

    def exchange(self, large: StripeBuffer, data: memoryview) -> StripeBuffer:
        """A buffer that begins with a copy of `data`, which may lie in `large`; that goes back."""
        size_bytes = self._rounded(len(data))
        self.used_bytes += size_bytes
        try:
            small = self._make(size_bytes)
            small.memory[: len(data)] = data
        finally:
            large.release()
        return small

    def _ask_back(self) -> None:
        """Somebody waits: who holds more than he needs gives of it, until that will do."""
        short_bytes = sum(size_bytes for size_bytes, _ in self._waiting)
        short_bytes -= self.budget_bytes - self.used_bytes
        asked = deque(self.givers.values())
        while asked and short_bytes > 0:
            give_back = asked.popleft()
            if (given_bytes := give_back()) is not None:
                short_bytes -= given_bytes
                asked.append(give_back)

    def watch(self, size_bytes: int, memory: object) -> None:
        """For StripeBuffer: `memory` is abandoned and counts until it is gone."""
        self._abandoned_bytes += size_bytes
        loop = asyncio.get_running_loop()
        weakref.finalize(memory, self._gone, loop, size_bytes).atexit = False

    def _gone(self, loop: asyncio.AbstractEventLoop, size_bytes: int) -> None:
        """In whichever thread, and amid whatever it was doing, the last view went."""
        with contextlib.suppress(RuntimeError):  # the loop has ended
            loop.call_soon_threadsafe(self._take_back_abandoned, size_bytes)

    def _take_back_abandoned(self, size_bytes: int) -> None:
        self._abandoned_bytes -= size_bytes
        self.take_back(size_bytes, None)

    def _look_soon(self) -> None:
        """Somebody waits. A transfer that was cancelled may hold its views in a cycle, of an
        exception, the frames that it went through and the future that they waited for; and who was
        fast may have become slow."""
        if self._waiting and self._look is None:
            loop = asyncio.get_running_loop()
            self._look = loop.call_later(LOOK_AGAIN_S, self._look_for_more)

    def _look_for_more(self) -> None:
        self._look = None
        if self._waiting:
            if self._abandoned_bytes:
                gc.collect()
            self._ask_back()
            self._look_soon()

    def take_back(self, size_bytes: int, memory: memoryview | None) -> None:
        """For StripeBuffer: the other half of `_make`. `None` is not pooled."""
        self.used_bytes -= size_bytes
        if memory is not None and size_bytes >= POOLED_BYTES:
            self._idle.setdefault(size_bytes, []).append(memory)
            self._idle_bytes += size_bytes
        self._serve()

    def _rounded(self, size_bytes: int) -> int:
        """What a buffer for `size_bytes` counts: few sizes, so that pooled ones are used again."""
        if size_bytes < POOLED_BYTES:
            return max(1, size_bytes)
        step = (1 << (size_bytes - 1).bit_length()) // 16
        return -(-size_bytes // step) * step

    def _may_pass(self, size_bytes: int) -> bool:
        """Without waiting: there is room, and nobody waits or it is small."""
        if size_bytes < POOLED_BYTES:
            return self.used_bytes + size_bytes <= self.budget_bytes + SMALL_RESERVE_BYTES
        return not self._waiting and self._fits(size_bytes)

    def _fits(self, size_bytes: int) -> bool:
        return self.used_bytes + size_bytes <= self.budget_bytes or self.used_bytes == 0

    def _make(self, size_bytes: int) -> StripeBuffer:
        """Of what is counted already; not any more if the system refuses the memory."""
        try:
            return StripeBuffer(self, self._memory(size_bytes))
        except (OSError, MemoryError):
            self.take_back(size_bytes, None)
            raise

    def _memory(self, size_bytes: int) -> memoryview:
        if size_bytes < POOLED_BYTES:
            return memoryview(_Bytes(size_bytes))
        idle = self._idle.get(size_bytes)
        if idle:
            self._idle_bytes -= size_bytes
            return idle.pop()
        self._trim()
        return memoryview(mmap.mmap(-1, size_bytes))

    def _trim(self) -> None:
        """Idle buffers of other sizes make room, so that the budget bounds the memory."""
        for size_bytes, idle in self._idle.items():
            while idle and self.held_bytes > self.budget_bytes:
                idle.pop()
                self._idle_bytes -= size_bytes

    def _serve(self) -> None:
        while self._waiting and self._fits(self._waiting[0][0]):
            size_bytes, place = self._waiting.popleft()
            if not place.done():
                self.used_bytes += size_bytes
                place.set_result(None)

    def _leave_queue(self, entry: tuple[int, "asyncio.Future[None]"]) -> None:
        size_bytes, place = entry
        if place.done() and not place.cancelled():  # our turn came as we gave up
            self.used_bytes -= size_bytes
        if entry in self._waiting:
            self._waiting.remove(entry)
        self._serve()

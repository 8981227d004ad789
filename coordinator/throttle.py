"""Holds background work to a rate, so that it leaves disks and network to the users."""

import asyncio
import time
from collections.abc import Awaitable, Callable


class Throttle:
    """A leaky bucket: whoever has just moved bytes waits until they are paid for."""

    def __init__(
        self,
        bytes_per_s: float,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._bytes_per_s, self._clock, self._sleep = bytes_per_s, clock, sleep
        self._paid_until_s = float("-inf")

    async def spend(self, size_bytes: int) -> None:
        """Returns when that many more may be moved."""
        now_s = self._clock()
        self._paid_until_s = max(self._paid_until_s, now_s) + size_bytes / self._bytes_per_s
        await self._sleep(self._paid_until_s - now_s)

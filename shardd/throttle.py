"""A bound on how fast background work reads, so that it does not get in the way."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


def boot_id() -> str:
    """Of this run of the machine: within one, all that ask have the same monotonic clock."""
    return _BOOT_ID.read_text().strip()


@dataclass(frozen=True, slots=True)
class Clocks:
    """Where background work has its time from, in seconds; `wall_s` is Unix time, which may
    jump. `boot` names the run of the machine that `steady_s` goes by."""

    wall_s: Callable[[], float] = time.time
    steady_s: Callable[[], float] = time.monotonic
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep
    boot: Callable[[], str] = boot_id


class Throttle:
    """Lets `bytes_per_s` pass on average; what was not used is not saved up."""

    def __init__(self, bytes_per_s: int, clocks: Clocks) -> None:
        self._bytes_per_s, self._clocks = bytes_per_s, clocks
        self._free_at_s = clocks.steady_s()

    async def spend(self, size_bytes: int) -> None:
        """Returns when so much may pass: at once if nothing has lately."""
        now_s = self._clocks.steady_s()
        wait_s = self._free_at_s - now_s
        self._free_at_s = max(now_s, self._free_at_s) + size_bytes / self._bytes_per_s
        if wait_s > 0:
            await self._clocks.sleep(wait_s)

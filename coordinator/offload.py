"""Takes hashing and coding off the event loop when that is worth the hop."""

import asyncio
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from common.units import KIB

T = TypeVar("T")

INLINE_BYTES = 64 * KIB  # below, a hop to a thread costs more than the work


class Offload:
    """A pool as wide as the machine: BLAKE3, ISA-L and zfec release the GIL."""

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(os.cpu_count() or 1, thread_name_prefix="hash-and-code")

    async def run(self, size_bytes: int, work: Callable[[], T]) -> T:
        """The result of `work`, which handles about `size_bytes`."""
        if size_bytes <= INLINE_BYTES:
            return work()
        return await asyncio.get_running_loop().run_in_executor(self._pool, work)

    def close(self) -> None:
        self._pool.shutdown(cancel_futures=True)

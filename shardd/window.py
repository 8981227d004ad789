"""A piece of a volume in memory, for reading it from end to end: recovery does."""

import asyncio
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from common.units import MIB
from shardd.direct import DirectFile, aligned
from shardd.disk import Disk
from shardd.volume import PAGE_BYTES, align_up

log = logging.getLogger(__name__)

_STEP_BYTES = 4 * MIB


class Window:
    """Reads in large steps, on threads. What the disk cannot read is zeros: rot, and no reason not
    to start. `size_bytes` is the file's; what lies beyond is not looked at."""

    def __init__(self, file: DirectFile, path: Path, size_bytes: int) -> None:
        self._file, self._path, self.size_bytes = file, path, size_bytes
        self._start, self._data = 0, aligned(PAGE_BYTES)
        self._loaded_bytes = 0

    async def view(self, offset: int, length: int) -> memoryview:
        """`length` bytes from `offset`, fewer at the end of the file. Raises the disk's OSErrors
        that mean more than a bad place."""
        length = min(length, self.size_bytes - offset)
        if offset < self._start or offset + length > self._start + self._loaded_bytes:
            await asyncio.to_thread(self._load, offset, length)
        return memoryview(self._data)[offset - self._start :][:length]

    def _load(self, offset: int, length: int) -> None:
        self._start = offset & -PAGE_BYTES
        wanted = align_up(max(offset + length - self._start, _STEP_BYTES), PAGE_BYTES)
        self._data, self._loaded_bytes = aligned(wanted), wanted
        for bad in self._file.read(memoryview(self._data), self._start):
            log.error("%s: cannot be read at %d", self._path, bad)

    async def find(self, needle: bytes, offset: int) -> int:
        """Where `needle` next starts, from `offset` on, else the size of the file."""
        while offset + len(needle) <= self.size_bytes:
            await self.view(offset, len(needle))
            at = self._data.find(needle, offset - self._start)
            if at >= 0:
                return self._start + at
            offset = self._start + self._loaded_bytes - len(needle) + 1
        return self.size_bytes


@contextmanager
def window_on(disk: Disk, path: Path, size_bytes: int) -> Iterator[Window]:
    """Past the page cache, where that is possible."""
    with DirectFile(disk, path) as file:
        yield Window(file, path, size_bytes)

"""A piece of a volume in memory, for reading it from end to end: recovery does."""

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from common.units import MIB
from shardd.disk import Disk
from shardd.parts import to_the_end
from shardd.verify import BAD_MEDIUM
from shardd.volume import PAGE_BYTES

log = logging.getLogger(__name__)

_STEP_BYTES = 4 * MIB


class Window:
    """Reads in large steps, on threads. What lies beyond `size_bytes` is not looked at."""

    def __init__(self, disk: Disk, path: Path, fd: int, size_bytes: int) -> None:
        self.size_bytes = size_bytes
        self._disk, self._path, self._fd = disk, path, fd
        self._start, self._data = 0, b""

    async def view(self, offset: int, length: int) -> memoryview:
        """`length` bytes from `offset`, fewer at the end of the file; zeros stand for what the
        disk cannot read: that is rot, and no reason not to start. Raises its other OSErrors."""
        length = min(length, self.size_bytes - offset)
        if offset < self._start or offset + length > self._start + len(self._data):
            wanted = min(max(length, _STEP_BYTES), self.size_bytes - offset)
            self._data = await to_the_end(lambda: self._read(offset, wanted))
            self._start = offset
        return memoryview(self._data)[offset - self._start :][:length]

    async def find(self, needle: bytes, offset: int) -> int:
        """Where `needle` next starts, from `offset` on, else the size of the file."""
        while offset + len(needle) <= self.size_bytes:
            await self.view(offset, len(needle))
            at = self._data.find(needle, offset - self._start)
            if at >= 0:
                return self._start + at
            offset = self._start + len(self._data) - len(needle) + 1
        return self.size_bytes

    def _read(self, offset: int, length: int) -> bytes:
        data = bytearray(length)
        try:
            self._disk.preadv(self._fd, [data], offset)
            return bytes(data)
        except OSError as error:
            if error.errno not in BAD_MEDIUM:
                raise
            if length <= PAGE_BYTES:
                log.error("%s: cannot be read at %d", self._path, offset)
                return bytes(length)
        # Up to the next page, then the rest of this step by halves.
        first = max(PAGE_BYTES - offset % PAGE_BYTES, length // 2 & -PAGE_BYTES)
        return self._read(offset, first) + self._read(offset + first, length - first)


@contextmanager
def window_on(disk: Disk, path: Path, size_bytes: int) -> Iterator[Window]:
    """Through the page cache: whatever the class, at any alignment."""
    fd = disk.open(path, os.O_RDONLY)
    try:
        yield Window(disk, path, fd, size_bytes)
    finally:
        disk.close(fd)

"""Reads a volume past the page cache, by pages, and gets around the places that the disk cannot
read. What the cache holds says nothing about the disk, and what is read once need not stay in it.
"""

import errno
import mmap
import os
from pathlib import Path
from types import TracebackType
from typing import Self

from shardd.disk import Disk, is_bad_place
from shardd.volume import PAGE_BYTES


def aligned(size_bytes: int) -> mmap.mmap:
    """Zeroed memory, anonymous and so page-aligned, as O_DIRECT needs it."""
    return mmap.mmap(-1, size_bytes)


class DirectFile:
    """A descriptor of its own, so that compaction may remove the volume meanwhile. Used by one
    thread at a time."""

    def __init__(self, disk: Disk, path: Path) -> None:
        """Raises the disk's OSError: FileNotFoundError if the volume is gone."""
        self._disk = disk
        try:
            self._fd = disk.open(path, os.O_RDONLY | os.O_DIRECT)
        except OSError as error:
            if error.errno != errno.EINVAL:  # no O_DIRECT on this filesystem
                raise
            self._fd = disk.open(path, os.O_RDONLY)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._disk.close(self._fd)

    def sync(self) -> None:
        """What others have written to the file is durable from now on. Raises OSError."""
        self._disk.fdatasync(self._fd)

    def read(self, place: memoryview, start: int) -> list[int]:
        """Fill `place`, whole pages from the page at `start` on, with zeros for what lies beyond
        the end of the file. The offsets of the pages that cannot be read, zeros too.

        Raises the disk's OSError if it means more than a bad place."""
        if self._read(place, start):
            return []
        pages = range(0, len(place), PAGE_BYTES)
        return [start + at for at in pages if not self._read(place[at:][:PAGE_BYTES], start + at)]

    def _read(self, place: memoryview, start: int) -> bool:
        done = 0
        try:
            while done < len(place):
                found = self._disk.preadv(self._fd, [place[done:]], start + done)
                done += found
                if not found or done % PAGE_BYTES:
                    break  # the end of the file
        except OSError as error:
            if not is_bad_place(error):
                raise
            place[done:] = bytes(len(place) - done)
            return False
        place[done:] = bytes(len(place) - done)
        return True

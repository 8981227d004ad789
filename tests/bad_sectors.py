"""A disk that has places which it cannot read."""

import errno
from collections.abc import Sequence
from pathlib import Path

from shardd.disk import RealDisk

# By O_DIRECT and through the page cache, from a target, a filesystem with checksums.
BAD_PLACES = [errno.EIO, errno.ENODATA, errno.EREMOTEIO, errno.EILSEQ, errno.EUCLEAN, errno.EBADMSG]


class BadSectors(RealDisk):
    """Some places of some files cannot be read, with that error."""

    def __init__(self, number: int = errno.ENODATA) -> None:
        self._number = number
        self.bad: set[tuple[str, int]] = set()  # name of a file, offset of a page

    def preadv(self, fd: int, buffers: Sequence[bytearray | memoryview], offset: int) -> int:
        self._check(fd, buffers, offset)
        return super().preadv(fd, buffers, offset)

    def preadv_nowait(self, fd: int, buffers: Sequence[bytearray | memoryview], offset: int) -> int:
        self._check(fd, buffers, offset)
        return super().preadv_nowait(fd, buffers, offset)

    def _check(self, fd: int, buffers: Sequence[bytearray | memoryview], offset: int) -> None:
        name = Path(f"/proc/self/fd/{fd}").readlink().name
        end = offset + sum(map(len, buffers))
        if any(name == bad and offset < at + 4096 and at < end for bad, at in self.bad):
            raise OSError(self._number, "unreadable")

"""Every system call on volumes and their directory, and nothing else.

It is passed in, so that tests put a faulty or crash-simulating disk in its place.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from common.shards import Buffer


@dataclass(frozen=True, slots=True)
class DiskSpace:
    """Of the whole filesystem; `free_bytes` is what an unprivileged process may still write."""

    total_bytes: int
    free_bytes: int


class Disk:
    """The operating system's disk. Each method is one call and raises its OSError."""

    def open(self, path: Path, flags: int) -> int:
        return os.open(path, flags | os.O_CLOEXEC, 0o600)

    def close(self, fd: int) -> None:
        os.close(fd)

    def size_bytes(self, fd: int) -> int:
        return os.fstat(fd).st_size

    def preadv(self, fd: int, buffers: Sequence[bytearray | memoryview], offset: int) -> int:
        return os.preadv(fd, buffers, offset)

    def preadv_nowait(self, fd: int, buffers: Sequence[bytearray | memoryview], offset: int) -> int:
        """As preadv, but raises BlockingIOError, or comes back short, where it would wait."""
        return os.preadv(fd, buffers, offset, os.RWF_NOWAIT)

    def pwritev(self, fd: int, buffers: Sequence[Buffer], offset: int) -> int:
        return os.pwritev(fd, buffers, offset)

    def fsync(self, fd: int) -> None:
        os.fsync(fd)

    def fdatasync(self, fd: int) -> None:
        os.fdatasync(fd)

    def fsync_dir(self, path: Path) -> None:
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)

    def truncate(self, fd: int, size_bytes: int) -> None:
        os.ftruncate(fd, size_bytes)

    def rename(self, source: Path, target: Path) -> None:
        source.replace(target)

    def unlink(self, path: Path) -> None:
        path.unlink()

    def space(self, path: Path) -> DiskSpace:
        found = os.statvfs(path)
        return DiskSpace(found.f_blocks * found.f_frsize, found.f_bavail * found.f_frsize)


def write_durably(disk: Disk, path: Path, data: bytes) -> None:
    """Replace the file `path` by `data`: after a crash it holds the old bytes or the new ones."""
    temporary = path.with_name(path.name + ".tmp")
    fd = disk.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    try:
        if disk.pwritev(fd, [data], 0) != len(data):
            raise OSError(f"{temporary} was written short")
        disk.fsync(fd)
    finally:
        disk.close(fd)
    disk.rename(temporary, path)
    disk.fsync_dir(path.parent)

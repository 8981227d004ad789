"""Every system call on the data directory that must outlive a crash, and nothing else.

It is passed in, so that tests put a recording, faulty or crash-simulating disk in its place.
Outside of it are the lock, which means nothing after a crash, and SQLite's index, a cache.
"""

import errno
import os
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from common.shards import Buffer
from shardd import held


@dataclass(frozen=True, slots=True)
class DiskSpace:
    """Of the whole filesystem; `free_bytes` is what an unprivileged process may still write."""

    total_bytes: int
    free_bytes: int


class Disk(Protocol):
    """Each method is one call of the operating system and raises its OSError."""

    def hold(self, folder: Path) -> None:
        """This path and those into it lead to this folder from now on, whatever takes its place."""

    def let_go(self, folder: Path) -> None:
        """The opposite; twice is harmless."""

    def is_in_place(self, folder: Path) -> bool:
        """Whether the path of a folder that is held still leads everybody else to it."""

    def open(self, path: Path, flags: int) -> int:
        """A descriptor, `O_CLOEXEC`; a new file is for its owner alone."""

    def close(self, fd: int) -> None: ...

    def size_bytes(self, fd: int) -> int: ...

    def preadv(self, fd: int, buffers: Sequence[bytearray | memoryview], offset: int) -> int: ...

    def preadv_nowait(self, fd: int, buffers: Sequence[bytearray | memoryview], offset: int) -> int:
        """As preadv, but raises BlockingIOError, or comes back short, where it would wait."""

    def pwritev(self, fd: int, buffers: Sequence[Buffer], offset: int) -> int: ...

    def fsync(self, fd: int) -> None: ...

    def fdatasync(self, fd: int) -> None: ...

    def fsync_dir(self, path: Path) -> None:
        """What was created, renamed and removed in this directory outlives a crash from now on."""

    def truncate(self, fd: int, size_bytes: int) -> None: ...

    def mkdir(self, path: Path) -> None: ...

    def names(self, path: Path) -> list[str]:
        """What is in a directory, in any order."""

    def rename(self, source: Path, target: Path) -> None:
        """Replaces `target` if there is one."""

    def unlink(self, path: Path) -> None: ...

    def space(self, path: Path) -> DiskSpace: ...


class RealDisk:
    """The operating system's."""

    def hold(self, folder: Path) -> None:
        held.hold(folder)

    def let_go(self, folder: Path) -> None:
        held.let_go(folder)

    def is_in_place(self, folder: Path) -> bool:
        return held.is_in_place(folder)

    def open(self, path: Path, flags: int) -> int:
        at = held.at(path)
        return os.open(at.path, flags | os.O_CLOEXEC, 0o600, dir_fd=at.dir_fd)

    def close(self, fd: int) -> None:
        os.close(fd)

    def size_bytes(self, fd: int) -> int:
        return os.fstat(fd).st_size

    def preadv(self, fd: int, buffers: Sequence[bytearray | memoryview], offset: int) -> int:
        return os.preadv(fd, buffers, offset)

    def preadv_nowait(self, fd: int, buffers: Sequence[bytearray | memoryview], offset: int) -> int:
        return os.preadv(fd, buffers, offset, os.RWF_NOWAIT)

    def pwritev(self, fd: int, buffers: Sequence[Buffer], offset: int) -> int:
        return os.pwritev(fd, buffers, offset)

    def fsync(self, fd: int) -> None:
        os.fsync(fd)

    def fdatasync(self, fd: int) -> None:
        os.fdatasync(fd)

    def fsync_dir(self, path: Path) -> None:
        fd = _open_folder(path)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)

    def truncate(self, fd: int, size_bytes: int) -> None:
        os.ftruncate(fd, size_bytes)

    def mkdir(self, path: Path) -> None:
        at = held.at(path)
        os.mkdir(at.path, dir_fd=at.dir_fd)

    def names(self, path: Path) -> list[str]:
        fd = _open_folder(path)  # of its own: where a listing is belongs to the descriptor
        try:
            with os.scandir(fd) as entries:
                return [entry.name for entry in entries]
        finally:
            os.close(fd)

    def rename(self, source: Path, target: Path) -> None:
        old, new = held.at(source), held.at(target)
        os.replace(old.path, new.path, src_dir_fd=old.dir_fd, dst_dir_fd=new.dir_fd)

    def unlink(self, path: Path) -> None:
        at = held.at(path)
        os.unlink(at.path, dir_fd=at.dir_fd)

    def space(self, path: Path) -> DiskSpace:
        folder = held.descriptor(path)
        found = os.statvfs(path if folder is None else folder)
        return DiskSpace(found.f_blocks * found.f_frsize, found.f_bavail * found.f_frsize)


def _open_folder(path: Path) -> int:
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
    folder = held.descriptor(path)
    if folder is not None:
        return os.open(".", flags, dir_fd=folder)
    return os.open(path, flags)


# What a disk or a filesystem says of a place that it cannot read, while others can be read. Linux
# gives a bad sector as ENODATA to O_DIRECT, and as EIO through the page cache; what a target
# refuses or a filesystem finds damaged has numbers of its own.
_BAD_PLACE = frozenset(
    (
        errno.EIO,
        errno.ENODATA,
        errno.EREMOTEIO,
        errno.EILSEQ,
        errno.EUCLEAN,
        errno.EBADMSG,
    )
)


def is_bad_place(error: OSError) -> bool:
    """Whether it says no more than that this place cannot be read."""
    return error.errno in _BAD_PLACE


def passes(error: OSError) -> bool:
    """Whether it says nothing of the disk, only that the process or the machine lacks something for
    a moment: a descriptor, or memory."""
    return error.errno in (errno.EMFILE, errno.ENFILE, errno.ENOMEM)


def lacks_descriptor(error: OSError) -> bool:
    """Whether a file could not even be opened: a call that opens and syncs has not synced yet."""
    return error.errno in (errno.EMFILE, errno.ENFILE)


def read_file(disk: Disk, path: Path) -> bytes:
    """All of a small file. Raises the disk's OSError."""
    fd = disk.open(path, os.O_RDONLY)
    try:
        data = bytearray(disk.size_bytes(fd))
        return bytes(data[: disk.preadv(fd, [data], 0)])
    finally:
        disk.close(fd)


def file_size_bytes(disk: Disk, path: Path) -> int:
    """Raises the disk's OSError."""
    fd = disk.open(path, os.O_RDONLY)
    try:
        return disk.size_bytes(fd)
    finally:
        disk.close(fd)


def make_folder(disk: Disk, path: Path) -> None:
    """Make `path` and what is missing above it, durably. One that is there may have been made by
    a process that was killed before it could sync. Raises the disk's OSError."""
    try:
        disk.mkdir(path)
    except FileExistsError:
        pass
    except FileNotFoundError:
        make_folder(disk, path.parent)
        disk.mkdir(path)
    with suppress(PermissionError):  # we may not look into it, so somebody else has made `path`
        disk.fsync_dir(path.parent)


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

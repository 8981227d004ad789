"""A disk in memory that knows what was synced: it can be asked what a crash would leave.

Every call that changes or syncs something is a step. After `steps[:i]`, a kill leaves all of them
in the page cache, still not synced; a power loss leaves what the model allows (filesystem.py).
"""

import errno
import os
import random
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from common.shards import Buffer
from common.units import GIB
from shardd.disk import DiskSpace
from tests.disks.filesystem import (
    ROOT,
    FileSystem,
    Image,
    Link,
    Rename,
    Step,
    SyncFile,
    SyncFolder,
    Truncate,
    Unlink,
    Write,
    after_power_loss,
    parent,
)

_FIRST_FD = 1_000_000  # never the descriptor of a real file
_PAGE_BYTES = 4096


@dataclass(frozen=True, slots=True)
class _Open:
    file: int
    flags: int


class CrashDisk:
    """Only what is under `root` exists, and `root` itself."""

    def __init__(self, root: Path, image: Image | None = None, steps: Sequence[Step] = ()) -> None:
        """It holds `image`, and `steps` that were done to it before, not synced again."""
        self.image = image or Image()
        self.steps: list[Step] = []
        self._root = root
        self._state = FileSystem(self.image)
        self._next_file = len(self.image.files)
        self._open: dict[int, _Open] = {}
        self._next_fd = _FIRST_FD
        self._lock = threading.Lock()
        for step in steps:
            self._do(step)

    # Crashes

    def killed(self, after: int) -> "CrashDisk":
        """The disk that a process finds when this one was killed after so many steps."""
        return CrashDisk(self._root, self.image, self.steps[:after])

    def lost_power(self, after: int, chance: random.Random) -> "CrashDisk":
        """What a power loss after so many steps may leave."""
        return CrashDisk(self._root, after_power_loss(self.image, self.steps[:after], chance))

    def rot(self, path: Path, at: int) -> None:
        """A byte of the file is another one from now on: on the platter, so a crash does not bring
        the old one back."""
        with self._lock:
            file = self._file(path)
            (old,) = self._state.contents[file][at : at + 1]
            self._do(SyncFile(file))
            self._do(Write(file, at, bytes([old ^ 1])))
            self._do(SyncFile(file))

    @property
    def content(self) -> Image:
        """What a process sees now."""
        return self._state.image()

    # The disk

    def hold(self, folder: Path) -> None:
        """Nothing is ever moved here."""

    def let_go(self, folder: Path) -> None:
        """Likewise."""

    def is_in_place(self, folder: Path) -> bool:
        return True

    def open(self, path: Path, flags: int) -> int:
        with self._lock:
            key = self._key(path)
            if key not in self._state.entries:
                self._create(key, flags)
            elif flags & os.O_CREAT and flags & os.O_EXCL:
                raise _error(errno.EEXIST, path)
            elif flags & os.O_TRUNC:
                self._do(Truncate(self._state.entries[key], 0))
            self._next_fd += 1
            self._open[self._next_fd] = _Open(self._state.entries[key], flags)
            return self._next_fd

    def _create(self, key: str, flags: int) -> None:
        if not flags & os.O_CREAT or parent(key) not in self._state.folders:
            raise _error(errno.ENOENT, key)
        self._do(Link(key, self._next_file))

    def close(self, fd: int) -> None:
        with self._lock:
            self._opened(fd)
            del self._open[fd]

    def size_bytes(self, fd: int) -> int:
        with self._lock:
            return len(self._state.contents[self._opened(fd).file])

    def preadv(self, fd: int, buffers: Sequence[bytearray | memoryview], offset: int) -> int:
        with self._lock:
            opened = self._opened(fd, os.O_RDONLY)
            _check_alignment(opened.flags, offset, buffers)
            content, at = self._state.contents[opened.file], offset
            for buffer in buffers:
                found = content[at : at + len(buffer)]
                memoryview(buffer)[: len(found)] = found
                at += len(found)
            return at - offset

    def preadv_nowait(self, fd: int, buffers: Sequence[bytearray | memoryview], offset: int) -> int:
        return self.preadv(fd, buffers, offset)

    def pwritev(self, fd: int, buffers: Sequence[Buffer], offset: int) -> int:
        with self._lock:
            opened = self._opened(fd, os.O_WRONLY)
            _check_alignment(opened.flags, offset, buffers)
            data = b"".join(buffers)
            self._do(Write(opened.file, offset, data))
            return len(data)

    def fsync(self, fd: int) -> None:
        with self._lock:
            self._do(SyncFile(self._opened(fd).file))

    def fdatasync(self, fd: int) -> None:
        self.fsync(fd)

    def fsync_dir(self, path: Path) -> None:
        with self._lock:
            self._do(SyncFolder(self._folder(path)))

    def truncate(self, fd: int, size_bytes: int) -> None:
        with self._lock:
            self._do(Truncate(self._opened(fd, os.O_WRONLY).file, size_bytes))

    def mkdir(self, path: Path) -> None:
        with self._lock:
            key = self._key(path)
            if key in self._state.folders or key in self._state.entries:
                raise _error(errno.EEXIST, path)
            if parent(key) not in self._state.folders:
                raise _error(errno.ENOENT, path)
            self._do(Link(key, None))

    def names(self, path: Path) -> list[str]:
        with self._lock:
            folder = self._folder(path)
            paths = [*self._state.entries, *self._state.folders - {ROOT}]
            return [each.rpartition("/")[2] for each in paths if parent(each) == folder]

    def rename(self, source: Path, target: Path) -> None:
        with self._lock:
            file = self._file(source)
            self._do(Rename(self._key(source), self._key(target), file))

    def unlink(self, path: Path) -> None:
        with self._lock:
            self._file(path)
            self._do(Unlink(self._key(path)))

    def space(self, path: Path) -> DiskSpace:
        return DiskSpace(16 * GIB, 8 * GIB)

    # Parts

    def _do(self, step: Step) -> None:
        self.steps.append(step)
        self._state.apply(step)
        if isinstance(step, Link) and step.file is not None:
            self._next_file = step.file + 1

    def _key(self, path: Path) -> str:
        return path.relative_to(self._root).as_posix()

    def _file(self, path: Path) -> int:
        file = self._state.entries.get(self._key(path))
        if file is None:
            raise _error(errno.ENOENT, path)
        return file

    def _folder(self, path: Path) -> str:
        key = self._key(path)
        if key not in self._state.folders:
            raise _error(errno.ENOENT, path)
        return key

    def _opened(self, fd: int, access: int | None = None) -> _Open:
        opened = self._open.get(fd)
        if opened is None or access not in (None, opened.flags & os.O_ACCMODE):
            raise _error(errno.EBADF, fd)
        return opened


def _check_alignment(flags: int, offset: int, buffers: Sequence[Buffer]) -> None:
    """As O_DIRECT does, but for that of the memory."""
    if flags & os.O_DIRECT and any(at % _PAGE_BYTES for at in (offset, *map(len, buffers))):
        raise _error(errno.EINVAL, offset)


def _error(number: int, what: object) -> OSError:
    return OSError(number, f"{os.strerror(number)}: {what}")

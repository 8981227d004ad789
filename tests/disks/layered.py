"""A disk on top of another: what the recording and the faulty one share."""

import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple, TypeVar

from common.shards import Buffer
from shardd.disk import Disk, DiskSpace, RealDisk

T = TypeVar("T")


class Call(NamedTuple):
    """Of which method, on which file or directory; bytes where there are any."""

    name: str
    path: Path
    offset: int = 0
    size_bytes: int = 0


class LayeredDisk:
    """Hands every call to `inner`, by way of `_around`."""

    def __init__(self, inner: Disk | None = None) -> None:
        self.inner: Disk = inner or RealDisk()
        self._lock = threading.Lock()
        self._paths: dict[int, Path] = {}

    def _around(self, call: Call, work: Callable[[], T]) -> T:
        """Do the call, or something else."""
        return work()

    def _on(self, name: str, fd: int, offset: int = 0, size_bytes: int = 0) -> Call:
        with self._lock:
            return Call(name, self._paths[fd], offset, size_bytes)

    def hold(self, folder: Path) -> None:
        self.inner.hold(folder)

    def let_go(self, folder: Path) -> None:
        self.inner.let_go(folder)

    def is_in_place(self, folder: Path) -> bool:
        return self._around(Call("is_in_place", folder), lambda: self.inner.is_in_place(folder))

    def open(self, path: Path, flags: int) -> int:
        fd = self._around(Call("open", path), lambda: self.inner.open(path, flags))
        with self._lock:
            self._paths[fd] = path
        return fd

    def close(self, fd: int) -> None:
        self._around(self._on("close", fd), lambda: self.inner.close(fd))

    def size_bytes(self, fd: int) -> int:
        return self._around(self._on("size_bytes", fd), lambda: self.inner.size_bytes(fd))

    def preadv(self, fd: int, buffers: Sequence[bytearray | memoryview], offset: int) -> int:
        call = self._on("preadv", fd, offset, sum(map(len, buffers)))
        return self._around(call, lambda: self.inner.preadv(fd, buffers, offset))

    def preadv_nowait(self, fd: int, buffers: Sequence[bytearray | memoryview], offset: int) -> int:
        call = self._on("preadv_nowait", fd, offset, sum(map(len, buffers)))
        return self._around(call, lambda: self.inner.preadv_nowait(fd, buffers, offset))

    def pwritev(self, fd: int, buffers: Sequence[Buffer], offset: int) -> int:
        call = self._on("pwritev", fd, offset, sum(map(len, buffers)))
        return self._around(call, lambda: self.inner.pwritev(fd, buffers, offset))

    def fsync(self, fd: int) -> None:
        self._around(self._on("fsync", fd), lambda: self.inner.fsync(fd))

    def fdatasync(self, fd: int) -> None:
        self._around(self._on("fdatasync", fd), lambda: self.inner.fdatasync(fd))

    def fsync_dir(self, path: Path) -> None:
        self._around(Call("fsync_dir", path), lambda: self.inner.fsync_dir(path))

    def truncate(self, fd: int, size_bytes: int) -> None:
        call = self._on("truncate", fd, size_bytes)
        self._around(call, lambda: self.inner.truncate(fd, size_bytes))

    def mkdir(self, path: Path) -> None:
        self._around(Call("mkdir", path), lambda: self.inner.mkdir(path))

    def names(self, path: Path) -> list[str]:
        return self._around(Call("names", path), lambda: self.inner.names(path))

    def rename(self, source: Path, target: Path) -> None:
        self._around(Call("rename", target), lambda: self.inner.rename(source, target))

    def unlink(self, path: Path) -> None:
        self._around(Call("unlink", path), lambda: self.inner.unlink(path))

    def space(self, path: Path) -> DiskSpace:
        return self._around(Call("space", path), lambda: self.inner.space(path))

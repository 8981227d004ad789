"""Files as the client reads and writes them, from the event loop and in large pieces."""

import asyncio
import errno
import os
import secrets
import stat
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from io import FileIO
from pathlib import Path

import aiofiles
import aiofiles.os
from aiofiles.threadpool import wrap

from common.units import MIB

CHUNK_BYTES = 1 * MIB

Sink = Callable[[bytes], Awaitable[object]]


async def read_file(file: str | Path | int, size_bytes: int | None = None) -> AsyncIterator[bytes]:
    """The bytes of a path or a descriptor, or the first `size_bytes` of them."""
    left = size_bytes
    async with aiofiles.open(file, "rb", buffering=0, closefd=not isinstance(file, int)) as source:
        while left is None or left > 0:
            wanted = CHUNK_BYTES if left is None else min(left, CHUNK_BYTES)
            chunk = await source.read(wanted)
            if not chunk:
                return
            if left is not None:
                left -= len(chunk)
            yield chunk


def read_descriptor(descriptor: int) -> AsyncIterator[bytes]:
    """Standard input, whatever it is: a file, a pipe, a terminal."""
    kind = os.fstat(descriptor).st_mode
    if stat.S_ISFIFO(kind) or stat.S_ISSOCK(kind) or os.isatty(descriptor):
        return _read_when_ready(descriptor)
    return read_file(descriptor)


async def _read_when_ready(descriptor: int) -> AsyncIterator[bytes]:
    """A thread that is blocked in a read would outlive Ctrl-C, so nothing is read before it is
    there."""
    loop, ready = asyncio.get_running_loop(), asyncio.Event()
    loop.add_reader(descriptor, ready.set)
    try:
        while True:
            await ready.wait()
            chunk = os.read(descriptor, CHUNK_BYTES)
            if not chunk:
                return
            ready.clear()
            yield chunk
    finally:
        loop.remove_reader(descriptor)


def size_of(path: Path) -> int | None:
    """The size of a regular file; None for what has none before it is read: pipes, devices, and
    the files of /proc, which claim to be empty."""
    status = path.stat()
    return status.st_size or None if stat.S_ISREG(status.st_mode) else None


@asynccontextmanager
async def descriptor_sink(descriptor: int) -> AsyncIterator[Sink]:
    """Writes to an open descriptor, such as standard output, and leaves it open."""
    async with aiofiles.open(descriptor, "wb", closefd=False) as file:
        yield file.write


def file_sink(path: Path) -> AbstractAsyncContextManager[Sink]:
    """Writes a file that takes the place of `path` when the block ends well, durably, and leaves
    no trace when it does not. What is not a regular file (`/dev/null`, a pipe) is written to."""
    target = Path(os.path.realpath(path))  # behind a symbolic link, so that the link stays
    if target.is_dir():
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    return _replacing(target) if target.is_file() or not target.exists() else _writing(target)


@asynccontextmanager
async def _writing(path: Path) -> AsyncIterator[Sink]:
    async with aiofiles.open(path, "wb") as file:
        yield file.write


@asynccontextmanager
async def _replacing(path: Path) -> AsyncIterator[Sink]:
    partial = path.with_name(f".{path.name[:200]}.{secrets.token_hex(4)}.part")
    opened = _create(partial)
    try:
        with opened:
            yield _write_all(wrap(opened).write)
            await asyncio.to_thread(os.fsync, opened.fileno())
        await aiofiles.os.replace(partial, path)
    except BaseException:
        _discard(partial)  # without await: also while being cancelled
        raise
    await asyncio.to_thread(sync_directory, path.parent)


def _create(path: Path) -> FileIO:
    """On the calling thread: an open that is cancelled while a pool's thread is at it could create
    the file after all, when nobody is left to remove it."""
    return path.open("xb", buffering=0)


def _discard(path: Path) -> None:
    path.unlink(missing_ok=True)


def _write_all(write: Callable[[memoryview], Awaitable[int | None]]) -> Sink:
    """An unbuffered write may take less than it is given."""

    async def write_all(data: bytes) -> None:
        rest = memoryview(data)
        while rest:
            rest = rest[await write(rest) or 0 :]

    return write_all


def sync_directory(directory: Path) -> None:
    """Makes renames within `directory` survive power loss."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

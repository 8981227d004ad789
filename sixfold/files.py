"""Files as the client reads and writes them, from the event loop and in large pieces."""

import asyncio
import errno
import os
import secrets
import stat
import sys
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


@asynccontextmanager
async def file_source(path: Path) -> AsyncIterator[tuple[AsyncIterator[bytes], int | None]]:
    """The bytes of a file as long as it is now, and their number. That is None where nothing is
    known before it is read: of pipes, devices, and the files of /proc, which claim to be empty."""
    async with aiofiles.open(path, "rb", buffering=0) as file:
        status = os.fstat(file.fileno())
        size_bytes = status.st_size or None if stat.S_ISREG(status.st_mode) else None
        yield _chunks(file.read, size_bytes), size_bytes


@asynccontextmanager
async def descriptor_source(descriptor: int) -> AsyncIterator[AsyncIterator[bytes]]:
    """Standard input, whatever it is: a file, a pipe, a terminal. It stays open."""
    kind = os.fstat(descriptor).st_mode
    if stat.S_ISFIFO(kind) or stat.S_ISSOCK(kind) or os.isatty(descriptor):
        yield _chunks(lambda wanted: _read_when_ready(descriptor, wanted))
    else:
        async with aiofiles.open(descriptor, "rb", buffering=0, closefd=False) as file:
            yield _chunks(file.read)


async def _chunks(
    read: Callable[[int], Awaitable[bytes]], size_bytes: int | None = None
) -> AsyncIterator[bytes]:
    """All that can be read, or the first `size_bytes` of it. Owns nothing that must be closed:
    an upload that fails leaves it where it is."""
    left = sys.maxsize if size_bytes is None else size_bytes
    while left > 0 and (chunk := await read(min(left, CHUNK_BYTES))):
        left -= len(chunk)
        yield chunk


async def _read_when_ready(descriptor: int, wanted: int) -> bytes:
    """A thread that is blocked in a read would outlive Ctrl-C: read nothing before it is there."""
    loop, ready = asyncio.get_running_loop(), asyncio.Event()
    loop.add_reader(descriptor, ready.set)
    try:
        await ready.wait()
    finally:
        loop.remove_reader(descriptor)
    return os.read(descriptor, wanted)


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

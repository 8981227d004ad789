"""What disks do by themselves: the floors of whatever is durable or read from a file."""

import errno
import itertools
import mmap
import os
import random
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path

from bench.micro.harness import Work, repeated
from common.shards import Buffer


@contextmanager
def _opened(path: Path, flags: int, direct: bool = False) -> Iterator[int]:
    """As shardd opens volumes: where the filesystem has no O_DIRECT, without."""
    try:
        fd = os.open(path, flags | (os.O_DIRECT if direct else 0), 0o600)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        fd = os.open(path, flags, 0o600)
    try:
        yield fd
    finally:
        os.close(fd)


@contextmanager
def synced_appends(path: Path, buffers: Sequence[Buffer], direct: bool = False) -> Iterator[Work]:
    """Append all `buffers` to a file of its own with one call, and sync it. Those that go past
    the page cache, `direct`, are aligned."""
    with _opened(path, os.O_WRONLY | os.O_CREAT, direct) as fd:
        yield _synced_writes(fd, buffers, itertools.count(0, sum(map(len, buffers))))
    path.unlink()


@contextmanager
def synced_appends_at_once(directory: Path, buffer: Buffer, count: int) -> Iterator[Work]:
    """Append `buffer` to each of `count` files and sync them all, by a thread for each."""
    with ExitStack() as opened:
        pool = opened.enter_context(ThreadPoolExecutor(count))
        paths = [directory / f"at-once-{number}" for number in range(count)]
        each = [opened.enter_context(synced_appends(path, [buffer])) for path in paths]
        yield repeated(lambda: list(pool.map(lambda append: append(1), each)))


@contextmanager
def synced_overwrites(path: Path, buffer: Buffer, count: int) -> Iterator[Work]:
    """Put `buffer` where a file of its own has something already, in `count` places in turn, and
    sync it: what a journal does that is used again and again."""
    path.write_bytes(bytes(count * len(buffer)))
    with _opened(path, os.O_WRONLY) as fd:
        os.fsync(fd)
        offsets = (at * len(buffer) for at in range(count))
        yield _synced_writes(fd, [buffer], itertools.cycle(offsets))
    path.unlink()


def _synced_writes(fd: int, buffers: Sequence[Buffer], offsets: Iterator[int]) -> Work:
    def write() -> None:
        os.pwritev(fd, buffers, next(offsets))
        os.fdatasync(fd)

    return repeated(write)


@contextmanager
def reads(path: Path, size_bytes: int, count: int, direct: bool = False) -> Iterator[Work]:
    """Read any of `count` pieces of a file of its own."""
    path.write_bytes(os.urandom(count * size_bytes))
    place = aligned(size_bytes)

    def read() -> None:
        os.preadv(fd, [place], random.randrange(count) * size_bytes)

    with _opened(path, os.O_RDONLY, direct) as fd:
        os.fsync(fd)
        yield repeated(read)
    path.unlink()


def aligned(size_bytes: int) -> memoryview:
    """Memory that O_DIRECT takes."""
    return memoryview(mmap.mmap(-1, size_bytes))

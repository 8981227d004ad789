"""Processes that write one SQLite file take turns.

SQLite lets whoever happens to ask next have the write lock, and who waits asks ever more rarely:
next to a process that commits without a pause, another one waits for seconds. So each asks at a
door first, and who stands in the door is the next: a process that has just written finds it taken.
"""

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager

from common.errors import NotOurTurn

WAIT_S = 10.0  # then the process whose turn it is hangs, and requests should hear of it
_ASK_S = 0.0005


@contextmanager
def turn(path: str) -> Iterator[None]:
    """Within the block no other process has its turn at the file `path`. Raises NotOurTurn, also
    if this process has no file descriptor left.

    A process that dies loses its turn, since the kernel closes its files.
    """
    try:
        room = _enter(path, time.monotonic() + WAIT_S)
    except OSError as error:
        why = f"cannot ask for a turn at the metadata database: {error.strerror}"
        raise NotOurTurn(why) from error
    try:
        yield
    finally:
        os.close(room)


def _enter(path: str, until_s: float) -> int:
    """The descriptor that holds the turn."""
    room = _open(f"{path}-turn")
    try:
        door = _open(f"{path}-next")
        try:
            _lock(door, until_s)
            _lock(room, until_s)
        finally:
            os.close(door)
    except BaseException:
        os.close(room)
        raise
    return room


def _open(path: str) -> int:
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)


def _lock(descriptor: int, until_s: float) -> None:
    """Asks again and again, because flock itself knows no deadline."""
    while True:
        try:
            return fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > until_s:
                raise NotOurTurn("another process holds the metadata database") from None
            time.sleep(_ASK_S)

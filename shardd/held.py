"""Folders that this process holds open: a path into one of them goes on leading there, wherever the
folder is moved, and whatever is mounted or put in its place.

Else there is an instant between each look at whose directory it is and the call that goes by the
path, in which an operator exchanges two disks and a node writes over the data of another one.
One table for the process, since a path means the same to all of it.
"""

import os
from pathlib import Path
from typing import NamedTuple

_held: dict[Path, int] = {}


class Place(NamedTuple):
    """What calls with a `dir_fd` take."""

    path: Path | str
    dir_fd: int | None


def hold(folder: Path) -> None:
    """From now on. Raises OSError."""
    path, dir_fd = at(folder)
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=dir_fd)
    let_go(folder)
    _held[folder] = fd


def let_go(folder: Path) -> None:
    """Twice is harmless."""
    fd = _held.pop(folder, None)
    if fd is not None:
        os.close(fd)


def at(path: Path) -> Place:
    """In its folder, if that is held."""
    dir_fd = _held.get(path.parent)
    return Place(path, None) if dir_fd is None else Place(path.name, dir_fd)


def descriptor(folder: Path) -> int | None:
    """Of a folder that is held."""
    return _held.get(folder)


def is_in_place(folder: Path) -> bool:
    """Whether the path leads everybody else to the folder that is held, too. Raises OSError."""
    try:
        return os.path.samestat(folder.stat(), os.fstat(_held[folder]))
    except (FileNotFoundError, NotADirectoryError):
        return False

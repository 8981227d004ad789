"""Whether `index.db` still is, bit for bit, the file that was closed.

SQLite has no checksums: a row that has rotted would hide a shard, or bring one back that was
deleted, and a rotten counter would give sequence numbers twice. So a clean stop leaves the BLAKE3
of the file beside it, `index.db-sum`, and the next start looks. After a crash there is none; then
SQLite looks whether the file is well-formed, which finds less.
"""

import contextlib
import logging
import os
from collections.abc import Iterator
from pathlib import Path

from blake3 import blake3

from common.errors import SixfoldError
from common.failpoints import Point, failpoint
from common.units import MIB
from shardd.disk import RealDisk, read_file, write_durably
from shardd.identity import DataDirectory
from shardd.index import IndexDamaged, remove_index

log = logging.getLogger(__name__)

SUFFIX = "-sum"


def leave_index(directory: DataDirectory, is_good: bool) -> None:
    """It was closed. Whatever may be wrong with it, the volumes are not."""
    if not is_good:
        remove_index(directory.index)
        return
    try:
        directory.check()  # SQLite goes by its path, and has closed what is there now
        seal_index(directory.index)
    except (OSError, SixfoldError) as error:
        log.warning("the next start will look whether the index is sound: %s", error)


def seal_index(path: Path) -> None:
    """The index was closed. Raises OSError; then it is as after a crash."""
    write_durably(RealDisk(), _seal_of(path), _sum(path))


def break_seal(path: Path) -> bool:
    """Call before the index is opened. Whether it is the file that was sealed; False if that is
    not known. Raises IndexDamaged if it is another."""
    try:
        sealed = read_file(RealDisk(), _seal_of(path))
        if sealed != _sum(path):
            raise IndexDamaged(f"{path} is not what it was when it was closed")
        # Durably, or after a power loss it would be held against what has been written since.
        RealDisk().unlink(_seal_of(path))
        RealDisk().fsync_dir(path.parent)
        failpoint(Point.INDEX_UNSEALED)
        return True
    except FileNotFoundError:
        return False
    except OSError as error:
        raise IndexDamaged(f"{path}: {error}") from None


def _seal_of(path: Path) -> Path:
    return path.with_name(path.name + SUFFIX)


def _sum(path: Path) -> bytes:
    """Of the file, and of what of it may be left in SQLite's log."""
    digest = blake3()
    for part in (path, path.with_name(path.name + "-wal")):
        for piece in _pieces(part):
            digest.update(piece)
    return digest.digest()


def _pieces(path: Path) -> Iterator[bytes]:
    with contextlib.suppress(FileNotFoundError):
        fd = RealDisk().open(path, os.O_RDONLY)
        try:
            while piece := os.read(fd, 4 * MIB):
                yield piece
        finally:
            os.close(fd)

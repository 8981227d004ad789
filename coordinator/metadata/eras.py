"""Ties the database file to its log, so that a backup is not merged with the log of another file.

SQLite keeps a log (`-wal`) beside the file, which a process that was killed leaves there. Whoever
opens the database next takes it for the file's own, and pages of then and now become one database.
So each opening is an era: its number is written into the file's header (`user_version`), and when
that is durable, into a file beside it. A file whose header is of an earlier era than was noted is
an older one.
"""

import os
from contextlib import suppress
from pathlib import Path

from common.errors import BadSetting
from coordinator.metadata.sql import Sql
from coordinator.metadata.turns import turn

_HEADER = b"SQLite format 3\0"
_ERA_AT = 60  # https://sqlite.org/fileformat.html: the "user version", four bytes, big-endian


def check_era(path: Path, has_log: bool) -> None:
    """Before the database is opened. Raises BadSetting if there is a log that is not the file's.
    Without a log any file will do, and its era is the one from now on."""
    era, noted = _era_of(path), _noted(path)
    if era is None or noted is None or era >= noted:
        return
    if has_log:
        raise BadSetting(
            f"database sqlite:///{path}: it is older than the log beside it: a backup that was put "
            f"in its place? Then delete {path.name}-wal and {path.name}-shm, start, and run "
            "sixfold admin rebuild-metadata"
        )
    _note(path, era)


def next_era(sql: Sql, path: Path) -> None:
    """Once the database is open."""
    with sql.transaction():
        era = int(sql.only("PRAGMA user_version")[0]) + 1
        sql.run(f"PRAGMA user_version = {era}")
    with turn(str(path)):  # nobody writes, so that all that was written is moved, and synced
        blocked, in_log, moved = sql.only("PRAGMA wal_checkpoint(PASSIVE)")
    if not blocked and in_log == moved:
        _note(path, era)


def _era_of(path: Path) -> int | None:
    """As the file itself says, without its log; None if there is none."""
    with suppress(OSError), path.open("rb") as file:
        header = file.read(_ERA_AT + 4)
        if header.startswith(_HEADER) and len(header) == _ERA_AT + 4:
            return int.from_bytes(header[_ERA_AT:], "big")
    return None


def _noted_in(path: Path) -> Path:
    return path.with_name(f"{path.name}-era")


def _noted(path: Path) -> int | None:
    with suppress(OSError, ValueError):
        return int(_noted_in(path).read_text())
    return None


def _note(path: Path, era: int) -> None:
    """Durably, whole or not at all."""
    place = _noted_in(path)
    new = place.with_name(f"{place.name}.new")
    with new.open("w") as file:
        file.write(str(era))
        file.flush()
        os.fsync(file.fileno())
    new.replace(place)
    folder = os.open(place.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)

"""What SQLite says of the index when it fails, and which of that does not pass by itself."""

import sqlite3

_UNREADABLE = (
    sqlite3.SQLITE_IOERR_READ,
    sqlite3.SQLITE_IOERR_SHORT_READ,
    sqlite3.SQLITE_IOERR_CORRUPTFS,
)


def is_damage(error: BaseException) -> bool:
    """Whether SQLite has found that the file is not what it wrote, or cannot be read."""
    said = getattr(error, "orig", error)  # what peewee has wrapped
    code: int = getattr(said, "sqlite_errorcode", sqlite3.SQLITE_OK)
    return code in _UNREADABLE or code & 0xFF in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)

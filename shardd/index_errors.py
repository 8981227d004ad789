"""What SQLite says of the index when it fails, and which of that does not pass by itself."""

import sqlite3

import peewee

SQL_ERRORS = (sqlite3.Error, peewee.PeeweeException)

_UNREADABLE = (
    sqlite3.SQLITE_IOERR_READ,
    sqlite3.SQLITE_IOERR_SHORT_READ,
    sqlite3.SQLITE_IOERR_CORRUPTFS,
)


def first_cause(error: BaseException) -> BaseException:
    """What went wrong at first. Some errors, such as that of a full disk, end the transaction; then
    ROLLBACK fails too, and its error comes in place of theirs."""
    earlier = error.__context__
    return first_cause(earlier) if isinstance(earlier, SQL_ERRORS) else error


def is_damage(error: BaseException) -> bool:
    """Whether SQLite has found that the file is not what it wrote, or cannot be read."""
    said = getattr(error, "orig", error)  # what peewee has wrapped
    code: int = getattr(said, "sqlite_errorcode", sqlite3.SQLITE_OK)
    return code in _UNREADABLE or code & 0xFF in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)

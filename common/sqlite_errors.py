"""What SQLite says when it fails, and which of that does not pass by itself."""

import sqlite3

_UNREADABLE = (
    sqlite3.SQLITE_IOERR_READ,
    sqlite3.SQLITE_IOERR_SHORT_READ,
    sqlite3.SQLITE_IOERR_CORRUPTFS,
)


def first_cause(error: BaseException) -> BaseException:
    """What SQLite said at first. Some errors, such as that of a full disk, end the transaction;
    then ROLLBACK fails too, and its error comes in place of theirs."""
    led_here = [error]
    while (earlier := led_here[-1].__context__) is not None:
        led_here.append(earlier)
    return next((each for each in reversed(led_here) if isinstance(each, sqlite3.Error)), error)


def is_damage(error: BaseException) -> bool:
    """Whether SQLite has found that the file is not what it wrote, or cannot be read."""
    said = getattr(error, "orig", error)  # what peewee has wrapped
    code: int = getattr(said, "sqlite_errorcode", sqlite3.SQLITE_OK)
    return code in _UNREADABLE or code & 0xFF in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)

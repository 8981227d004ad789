"""What SQLite says when it fails, and which of that does not pass by itself."""

_UNREADABLE = ("SQLITE_IOERR_READ", "SQLITE_IOERR_SHORT_READ", "SQLITE_IOERR_CORRUPTFS")
_DAMAGED = ("SQLITE_CORRUPT", "SQLITE_NOTADB")  # how the names of such results begin


def first_cause(error: BaseException) -> BaseException:
    """What SQLite said at first. Some errors, such as that of a full disk, end the transaction;
    then ROLLBACK fails too, and its error comes in place of theirs."""
    led_here = [error]
    while (earlier := led_here[-1].__context__) is not None:
        led_here.append(earlier)
    return next((each for each in reversed(led_here) if _result(each)), error)


def is_damage(error: BaseException) -> bool:
    """Whether SQLite has found that the file is not what it wrote, or cannot be read."""
    result = _result(getattr(error, "orig", error))  # what peewee has wrapped
    return result in _UNREADABLE or result.startswith(_DAMAGED)


def _result(error: BaseException) -> str:
    """The name of SQLite's result code; empty if the error is not from SQLite itself."""
    return getattr(error, "sqlite_errorname", "")

"""What tests do to the file of a metadata database behind its owner's back."""

import sqlite3
from contextlib import closing
from pathlib import Path

PAGE_BYTES = 4096


def overwrite(file: Path, page: int) -> None:
    with file.open("r+b") as opened:
        opened.seek((page - 1) * PAGE_BYTES)
        opened.write(b"\x55" * PAGE_BYTES)


def root_page(file: Path, name: str) -> int:
    """Of a table or an index."""
    with closing(sqlite3.connect(file)) as database:
        query = "SELECT rootpage FROM sqlite_master WHERE name = ?"
        (page,) = database.execute(query, (name,)).fetchone()
        return int(page)


def checkpoint(file: Path) -> None:
    """What the store's own thread does at the same time is an error at once, and soon done."""
    with closing(sqlite3.connect(file)) as database:
        while database.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0]:
            pass


def backup(file: Path, to: Path) -> None:
    with closing(sqlite3.connect(file)) as database, closing(sqlite3.connect(to)) as copy:
        database.backup(copy)

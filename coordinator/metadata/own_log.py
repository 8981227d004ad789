"""Whether the log beside the database file is that file's own.

SQLite keeps its log (`-wal`) beside the file, and a process that is killed leaves it there. Whoever
opens the database next merges the two, whatever file has come into the place of the old one: pages
of then and now become one database. So transactions are numbered, in the header of the file
(`user_version`, on page 1, which each of them writes). Beside the number stand random ones of the
process that wrote it and of that before it (`application_id`): what happened after a backup, and
what after the same backup was restored, has the same numbers. A log continues a file if it begins
with the transaction after the file's last, or has the very transaction that is the file's last.

The log's format: https://sqlite.org/fileformat2.html#the_write_ahead_log
"""

import secrets
import struct
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, suppress
from itertools import count
from pathlib import Path
from sqlite3 import Connection
from typing import NamedTuple

from common.errors import BadSetting
from common.units import KIB

NUMBERS = 1 << 31  # then they begin anew: what SQLite has for `user_version` is signed

_HEADER = b"SQLite format 3\0"
_STAMP = struct.Struct(">60xI4xI")  # in page 1: `user_version` and `application_id`
# Magic, version, page size, checkpoint, two salts, two checksums.
_LOG = struct.Struct(">8I")
# Page number, pages of the file if a transaction ends here, else 0, the salts, two checksums.
_FRAME = struct.Struct(">6I")
_WORDS = {0x377F0682: "<", 0x377F0683: ">"}  # by the magic: how checksums read the bytes
_MASK = 0xFFFFFFFF

Pages = Mapping[int, bytes]


class Stamp(NamedTuple):
    """Of a transaction; `before` is the process of the one before it."""

    number: int
    before: int
    process: int

    @classmethod
    def of(cls, user_version: int, application_id: int) -> "Stamp":
        return cls(user_version % NUMBERS, application_id >> 16 & 0x7FFF, application_id & 0x7FFF)

    @property
    def application_id(self) -> int:
        return self.before << 16 | self.process

    def next_by(self, process: int) -> "Stamp":
        return Stamp((self.number + 1) % NUMBERS, self.process, process)

    def is_older_than(self, other: "Stamp") -> bool:
        """Of two that lie less than half of all numbers apart."""
        return 0 < (other.number - self.number) % NUMBERS < NUMBERS // 2


def new_process() -> int:
    """Random, of 15 bits: SQLite takes two of them as one number with a sign."""
    return secrets.randbits(15)


def has_own_log(path: Path, connect: Callable[[], Connection]) -> bool:
    """Whether that is certain, also for want of a log; `connect` opens the file to read it through
    the log. False if the log was begun by a program that does not number its transactions. Raises
    BadSetting if it is the log of another file, and sqlite3.Error.

    Other processes may commit meanwhile, and move what they have committed: the file only grows
    younger, so what must be older is looked at before what must be younger. And the file by itself
    before it is opened: who closes it after that takes SQLite's locks away from this process.
    """
    while True:
        began = _head(path)
        pages = _first_transaction(path)
        in_file = _stamp_in(_read(path, _STAMP.size))
        with closing(connect()) as database:
            (merged,) = database.execute("PRAGMA user_version").fetchone()
        in_log = set(_stamps_in_log(path))
        if _head(path) == began:
            break  # else the log has begun anew meanwhile
    if not pages or in_file is None:
        return True  # nothing will be merged
    first = _stamp_in(pages.get(1, b""))
    if first is None:
        return False
    following = in_file.next_by(first.process)
    if following.is_older_than(first):
        raise _foreign(path, "the file is older than the log beside it: a backup")
    if in_file._replace(number=merged).is_older_than(in_file):
        raise _foreign(path, "the file is younger than the log beside it: a copy")
    if following != first and in_file not in in_log:
        raise _foreign(path, "the log beside the file is that of another history: a copy")
    return True


def _foreign(path: Path, why: str) -> BadSetting:
    return BadSetting(
        f"database sqlite:///{path}: {why} that was put in the place of another file? Then delete "
        f"{path.name}-wal and {path.name}-shm, start, and run sixfold admin rebuild-metadata"
    )


def _stamp_in(page: bytes) -> Stamp | None:
    """Of the last transaction that this first page has."""
    if not page.startswith(_HEADER) or len(page) < _STAMP.size:
        return None
    return Stamp.of(*_STAMP.unpack_from(page))


def _read(path: Path, size_bytes: int) -> bytes:
    with suppress(OSError), path.open("rb") as file:
        return file.read(size_bytes)
    return b""


def has_log(path: Path) -> bool:
    """Whether there is one with anything in it."""
    return bool(_head(path))


def _head(path: Path) -> bytes:
    """It is another one whenever the log begins anew."""
    return _read(_log_of(path), _LOG.size)


def _log_of(path: Path) -> Path:
    return path.with_name(f"{path.name}-wal")


def _first_transaction(path: Path) -> Pages:
    """The pages that the first transaction in the log has written; none if none was committed, by
    the rules that SQLite goes by."""
    with suppress(OSError, struct.error, KeyError), _log_of(path).open("rb", 256 * KIB) as log:
        head = log.read(_LOG.size)
        magic, _, page_bytes, _, *rest = _LOG.unpack(head)
        words, salts, checksum = _WORDS[magic], rest[:2], (0, 0)
        if (checksum := _sum(checksum, head[:-8], words)) != tuple(rest[2:]):
            return {}
        pages: dict[int, bytes] = {}
        while True:
            frame, page = log.read(_FRAME.size), log.read(page_bytes)
            number, ends, *rest = _FRAME.unpack(frame)
            if rest[:2] != salts or len(page) < page_bytes:
                return {}
            checksum = _sum(_sum(checksum, frame[:8], words), page, words)
            if checksum != tuple(rest[2:]):
                return {}
            pages[number] = page
            if ends:
                return pages
    return {}


def _stamps_in_log(path: Path) -> Iterator[Stamp]:
    """Of all transactions that may be in the log: whether each is whole is not looked at."""
    with suppress(OSError, struct.error), _log_of(path).open("rb", 0) as log:
        _, _, page_bytes, _, *rest = _LOG.unpack(log.read(_LOG.size))
        for at in count(_LOG.size, _FRAME.size + page_bytes):
            log.seek(at)
            number, _, *salts, _, _ = _FRAME.unpack(log.read(_FRAME.size))
            if salts != rest[:2]:
                return
            if number == 1 and (stamp := _stamp_in(log.read(_STAMP.size))) is not None:
                yield stamp


def _sum(checksum: tuple[int, int], data: bytes, words: str) -> tuple[int, int]:
    """SQLite's checksum of what came before and `data`, by pairs of words."""
    one, other = checksum
    values = struct.unpack(f"{words}{len(data) // 4}I", data)
    for at in range(0, len(values), 2):
        one = (one + values[at] + other) & _MASK
        other = (other + values[at + 1] + one) & _MASK
    return one, other

"""`index.db`: where every shard is, as SQLite. A disposable cache: the volumes are the truth.

Rows and the checkpoint that covers them commit together. SQLite runs in WAL with
`synchronous=NORMAL`: a power loss may take the last transactions, which recovery reads again from
the volumes, but cannot leave a checkpoint without its rows, which would hide shards silently.

A deleted shard keeps a row, marked not live: so the latest sequence number wins whichever volume
recovery reads first. `buried` lists the dead records that the volumes still hold (usage.py).
"""

import logging
import sqlite3
import threading
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

import peewee

from common.errors import Unavailable
from common.sqlite_errors import first_cause, is_damage
from shardd.disk import RealDisk
from shardd.entries import Entry, Location
from shardd.usage import Changes, Standing, VolumeUse, changes_of

log = logging.getLogger(__name__)

T = TypeVar("T")
SCHEMA_VERSION = 2
MEMORY = Path(":memory:")  # where an index is that the disk does not take
_KEYS_PER_QUERY = 500
# peewee wraps what goes through execute_sql; executemany raises what sqlite3 raises.
_SQL_ERRORS = (peewee.PeeweeException, sqlite3.Error)

_SCHEMA = (
    """CREATE TABLE record (
        key BLOB PRIMARY KEY, volume INTEGER NOT NULL, offset INTEGER NOT NULL,
        payload_bytes INTEGER NOT NULL, live INTEGER NOT NULL, sequence INTEGER NOT NULL,
        k INTEGER NOT NULL, n INTEGER NOT NULL, segment_bytes INTEGER NOT NULL,
        encoding INTEGER NOT NULL, checksum BLOB NOT NULL
    ) WITHOUT ROWID""",
    "CREATE TABLE checkpoint (volume INTEGER PRIMARY KEY, scanned_bytes INTEGER NOT NULL)",
    # What is in a volume, in order of place: for compaction and scrub.
    "CREATE INDEX place ON record (volume, live, offset)",
    """CREATE TABLE volume_use (
        volume INTEGER PRIMARY KEY, live_bytes INTEGER NOT NULL, tombstones INTEGER NOT NULL
    )""",
    """CREATE TABLE buried (
        key BLOB NOT NULL, volume INTEGER NOT NULL, PRIMARY KEY (key, volume)
    ) WITHOUT ROWID""",
    "CREATE INDEX buried_in ON buried (volume)",
    "CREATE TABLE meta (name TEXT PRIMARY KEY, value) WITHOUT ROWID",
    f"PRAGMA user_version = {SCHEMA_VERSION}",
)
_UPSERT = """
INSERT INTO record VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
ON CONFLICT (key) DO UPDATE SET
    volume = excluded.volume, offset = excluded.offset, payload_bytes = excluded.payload_bytes,
    live = excluded.live, sequence = excluded.sequence, k = excluded.k, n = excluded.n,
    segment_bytes = excluded.segment_bytes, encoding = excluded.encoding,
    checksum = excluded.checksum
WHERE excluded.sequence >= record.sequence
"""
_COUNT_USE = """
INSERT INTO volume_use VALUES (?, ?, ?) ON CONFLICT (volume) DO UPDATE SET
    live_bytes = live_bytes + excluded.live_bytes, tombstones = tombstones + excluded.tombstones
"""
# Only over what another volume still holds is a tombstone needed.
_NEEDED = """live = 0 AND EXISTS (
    SELECT 1 FROM buried WHERE buried.key = record.key AND buried.volume != record.volume)"""


class IndexDamaged(Exception):
    """The file is not a usable index: delete it and read the volumes."""


class IndexFile:
    """Two connections, each used by one thread at a time, so that a lookup need not wait for a
    transaction; in memory there can be only one. Methods raise Unavailable when SQLite fails."""

    def __init__(self, path: Path, node_id: str) -> None:
        """Raises IndexDamaged unless the file is absent or this node's index."""
        self._path = path
        self.damage = ""  # what SQLite said of it
        self.on_damage: Callable[[str], None] = lambda _: None  # called from any thread
        self._write_lock = self._query_lock = threading.RLock()
        self._writing = self._querying = _database(path)
        if path != MEMORY:
            self._query_lock, self._querying = threading.RLock(), _database(path)
        try:
            self._open(node_id)
        except (*_SQL_ERRORS, ValueError, TypeError, KeyError) as error:
            self.close()
            raise IndexDamaged(f"{path}: {error}") from None
        except IndexDamaged:
            self.close()
            raise

    def _open(self, node_id: str) -> None:
        self._writing.connect()
        version = _fetch(self._writing, "PRAGMA user_version")[0][0]
        if version == 0:
            self._create(node_id)
        elif version != SCHEMA_VERSION:
            raise IndexDamaged(f"{self._path} has schema {version}, not {SCHEMA_VERSION}")
        self._querying.connect(reuse_if_open=True)
        meta = dict(_fetch(self._querying, "SELECT name, value FROM meta"))
        if meta["node_id"] != node_id:
            raise IndexDamaged(f"{self._path} is the index of another node")
        self.next_sequence, self.live = int(meta["next_sequence"]), int(meta["live"])
        _fetch(self._querying, "SELECT * FROM record LIMIT 1")

    def _create(self, node_id: str) -> None:
        with self._writing.atomic():
            for statement in _SCHEMA:
                _fetch(self._writing, statement)
            self._set_meta({"node_id": node_id, "next_sequence": 1, "live": 0})

    def write(
        self,
        entries: Mapping[bytes, Entry],
        buried: Collection[tuple[bytes, int]],
        scanned: Mapping[int, int],
        next_sequence: int,
    ) -> None:
        """One transaction: the rows, unless a later record of the address is there already; the
        dead records that the rows never knew; how far each volume is known; the first free
        sequence number; what all this changes in the use of the volumes."""
        with self._write_lock, self._explained("written"), self._writing.atomic():
            changes = changes_of(self._standing(self._writing, list(entries)), entries)
            self._executemany(_UPSERT, list(entries.values()))
            self._executemany("REPLACE INTO checkpoint VALUES (?, ?)", list(scanned.items()))
            changes.buried.update(buried)
            self._apply(changes)
            live = self.live + changes.live
            self._set_meta({"next_sequence": next_sequence, "live": live})
        self.next_sequence, self.live = next_sequence, live

    def _apply(self, changes: Changes) -> None:
        use = [(volume, *gained) for volume, gained in changes.use.items()]
        self._executemany(_COUNT_USE, use)
        self._executemany("INSERT OR IGNORE INTO buried VALUES (?, ?)", list(changes.buried))

    def standing(self, keys: Sequence[bytes]) -> dict[bytes, Standing]:
        """What the rows of those of `keys` that there are say, tombstones included."""
        with self._query_lock, self._explained("read"):
            return self._standing(self._querying, keys)

    def _standing(
        self, database: peewee.SqliteDatabase, keys: Sequence[bytes]
    ) -> dict[bytes, Standing]:
        fields = "key, volume, offset, payload_bytes, live, sequence"
        query = f"SELECT {fields} FROM record WHERE key IN "
        rows = _by_parts(keys, lambda part: _fetch(database, query + _marks(part), part))
        return {key: Standing(*said) for key, *said in rows}

    def find(self, keys: Sequence[bytes]) -> dict[bytes, Location]:
        """What there is of `keys`, tombstones included."""
        fields = "key, volume, offset, payload_bytes, live"
        query = f"SELECT {fields} FROM record WHERE key IN "
        with self._query_lock, self._explained("read"):
            rows = _by_parts(keys, lambda part: _fetch(self._querying, query + _marks(part), part))
        return {key: Location(*where) for key, *where in rows}

    def entries(self, keys: Sequence[bytes]) -> list[Entry]:
        """The rows of those of `keys` that are live."""
        query = "SELECT * FROM record WHERE live = 1 AND key IN "
        with self._query_lock, self._explained("read"):
            rows = _by_parts(keys, lambda part: _fetch(self._querying, query + _marks(part), part))
        return [Entry(*row) for row in rows]

    def page(self, after: bytes, limit: int) -> list[Entry]:
        """The next live shards in order of key."""
        query = "SELECT * FROM record WHERE key > ? AND live ORDER BY key LIMIT ?"
        with self._query_lock, self._explained("read"):
            return [Entry(*row) for row in _fetch(self._querying, query, [after, limit])]

    def checkpoints(self) -> dict[int, int]:
        """By volume number: up to where the index knows it."""
        with self._query_lock, self._explained("read"):
            return dict(_fetch(self._querying, "SELECT volume, scanned_bytes FROM checkpoint"))

    def check(self) -> None:
        """Raises IndexDamaged unless the file is well-formed. Takes a quarter of a second for a
        million shards."""
        with self._query_lock, self._explained("read"):
            found = _fetch(self._querying, "PRAGMA quick_check(1)")[0][0]
        if found != "ok":
            raise IndexDamaged(f"{self._path}: {found}")

    def use(self) -> dict[int, VolumeUse]:
        """By volume number; a volume that nothing points to may be left out."""
        with self._query_lock, self._explained("read"):
            rows = _fetch(self._querying, "SELECT volume, live_bytes, tombstones FROM volume_use")
        return {volume: VolumeUse(*use) for volume, *use in rows}

    def live_in(self, volume: int, after: int, limit: int) -> list[Entry]:
        """The next live shards of a volume whose offset is greater than `after`, by offset."""
        return self._placed("live = 1", volume, after, limit)

    def tombstones_in(self, volume: int, after: int, limit: int) -> list[Entry]:
        """Likewise all tombstones."""
        return self._placed("live = 0", volume, after, limit)

    def needed_tombstones_in(self, volume: int, after: int, limit: int) -> list[Entry]:
        """Likewise the tombstones over shards that other volumes still hold."""
        return self._placed(_NEEDED, volume, after, limit)

    def _placed(self, condition: str, volume: int, after: int, limit: int) -> list[Entry]:
        where = f"volume = ? AND offset > ? AND {condition}"
        query = f"SELECT * FROM record WHERE {where} ORDER BY offset LIMIT ?"
        with self._query_lock, self._explained("read"):
            rows = _fetch(self._querying, query, [volume, after, limit])
        return [Entry(*row) for row in rows]

    def count_needed_tombstones(self, volume: int) -> int:
        query = f"SELECT count(*) FROM record WHERE volume = ? AND {_NEEDED}"
        with self._query_lock, self._explained("read"):
            return int(_fetch(self._querying, query, [volume])[0][0])

    def forget(self, volume: int) -> None:
        """Remove all that is known of a volume, durably if it can be: its file goes next, and an
        index that still knew it would have to be made anew. Raises Unavailable if that cannot be
        done, or if a live shard is left; then nothing is removed."""
        with self._write_lock, self._query_lock, self._explained("written"):
            with self._writing.atomic():
                query = "SELECT count(*) FROM record WHERE live = 1 AND volume = ?"
                if left := _fetch(self._writing, query, [volume])[0][0]:
                    raise Unavailable(f"volume {volume} still holds {left} live shards")
                for table in ("record", "buried", "volume_use", "checkpoint"):
                    _fetch(self._writing, f"DELETE FROM {table} WHERE volume = ?", [volume])
            for pragma in ("incremental_vacuum", "wal_checkpoint(TRUNCATE)"):
                self._tidy(f"PRAGMA {pragma}")

    def _tidy(self, statement: str) -> None:
        """What was forgotten before is forgotten, whatever becomes of this: if the caller kept the
        file now, its records would count as buried nowhere, and their tombstones as not needed."""
        try:
            with self._explained("made smaller"):
                _fetch(self._writing, statement)
        except Unavailable as error:
            log.warning("%s", error)

    @contextmanager
    def _explained(self, action: str) -> Iterator[None]:
        """Turns SQLite's errors into Unavailable, and notes what cannot pass by itself."""
        try:
            yield
        except _SQL_ERRORS as last:
            error = first_cause(last)
            if is_damage(error):
                self.damage = self.damage or f"the index is damaged: {error}"
                self.on_damage(self.damage)
            raise Unavailable(f"the index cannot be {action}: {error}") from None

    def close(self) -> None:
        self._querying.close()
        self._writing.close()

    def _set_meta(self, values: Mapping[str, int | str]) -> None:
        self._executemany("REPLACE INTO meta VALUES (?, ?)", list(values.items()))

    def _executemany(self, statement: str, rows: Sequence[Sequence[Any]]) -> None:
        writing: Any = self._writing  # its stubs leave cursor untyped
        writing.cursor().executemany(statement, rows)


def _database(path: Path) -> peewee.SqliteDatabase:
    # auto_vacuum must come first: it cannot be changed once the file has a page.
    pragmas = {
        "auto_vacuum": "incremental",
        "journal_mode": "wal",
        "synchronous": "normal",
        "busy_timeout": 10_000,
    }
    # Without autoconnect: connecting anew to a file that has gone would find an empty index.
    return peewee.SqliteDatabase(
        str(path), pragmas=pragmas, autoconnect=False, thread_safe=False, check_same_thread=False
    )


def _fetch(
    database: peewee.SqliteDatabase, query: str, parameters: Sequence[Any] = ()
) -> list[Any]:
    untyped: Any = database  # its stubs leave execute_sql untyped
    return list(untyped.execute_sql(query, parameters).fetchall())


def _by_parts(
    keys: Sequence[bytes], query: Callable[[Sequence[bytes]], Sequence[Any]]
) -> list[Any]:
    """The rows of `query`, asked for a bounded number of keys at a time."""
    parts = (keys[at : at + _KEYS_PER_QUERY] for at in range(0, len(keys), _KEYS_PER_QUERY))
    return [row for part in parts for row in query(part)]


def _marks(keys: Sequence[bytes]) -> str:
    return f"({','.join('?' * len(keys))})"


def remove_index(path: Path) -> None:
    """Delete the file and what is kept beside it."""
    for suffix in ("", "-wal", "-shm", "-sum"):
        with suppress(FileNotFoundError):
            RealDisk().unlink(path.with_name(path.name + suffix))

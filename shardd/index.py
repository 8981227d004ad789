"""Where every shard is: a disposable SQLite cache, `index.db`, behind a table in memory.

The volumes are the truth. What the writer makes durable goes into the table in memory at once
and from there to SQLite in batches; a row and the checkpoint that covers it commit together.
SQLite runs in WAL with `synchronous=NORMAL`: a power loss may take the last transactions, which
recovery reads again from the volumes, but cannot leave a checkpoint without its rows.

A deleted shard keeps a row, marked not live: so the latest sequence number wins whichever volume
recovery reads first.
"""

import logging
import sqlite3
import threading
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import peewee

from common.errors import Unavailable
from common.ids import ShardAddress
from common.record import RecordHeader, RecordKind
from common.shards import Encoding, ShardInfo
from shardd.recent import RecentMap

log = logging.getLogger(__name__)

SCHEMA_VERSION = 1
FLUSH_ENTRIES = 4096
RECENT_ENTRIES = 65_536
_KEYS_PER_QUERY = 500
# peewee wraps what goes through execute_sql; executemany raises what sqlite3 raises.
_SQL_ERRORS = (peewee.PeeweeException, sqlite3.Error)

_SCHEMA = """
CREATE TABLE record (
    key BLOB PRIMARY KEY, volume INTEGER NOT NULL, offset INTEGER NOT NULL,
    payload_bytes INTEGER NOT NULL, live INTEGER NOT NULL, sequence INTEGER NOT NULL,
    k INTEGER NOT NULL, n INTEGER NOT NULL, segment_bytes INTEGER NOT NULL,
    encoding INTEGER NOT NULL, checksum BLOB NOT NULL
) WITHOUT ROWID;
CREATE TABLE checkpoint (volume INTEGER PRIMARY KEY, scanned_bytes INTEGER NOT NULL);
CREATE TABLE meta (name TEXT PRIMARY KEY, value) WITHOUT ROWID;
"""
_UPSERT = """
INSERT INTO record VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
ON CONFLICT (key) DO UPDATE SET
    volume = excluded.volume, offset = excluded.offset, payload_bytes = excluded.payload_bytes,
    live = excluded.live, sequence = excluded.sequence, k = excluded.k, n = excluded.n,
    segment_bytes = excluded.segment_bytes, encoding = excluded.encoding,
    checksum = excluded.checksum
WHERE excluded.sequence >= record.sequence
"""


class IndexDamaged(Exception):
    """The file is not a usable index: delete it and read the volumes."""


class Location(NamedTuple):
    """Where the latest record of an address starts. A tombstone's is not live. A named tuple,
    as 65,536 of them are kept."""

    volume: int
    offset: int
    payload_bytes: int
    live: bool


class Entry(NamedTuple):
    """A row of `record`, in the order of its columns: it goes to SQLite as it is."""

    key: bytes
    volume: int
    offset: int
    payload_bytes: int
    live: bool
    sequence: int
    k: int
    n: int
    segment_bytes: int
    encoding: int
    checksum: bytes

    @classmethod
    def of(cls, header: RecordHeader, volume: int, offset: int) -> "Entry":
        info, live = header.info, header.kind is RecordKind.SHARD
        return cls(
            info.address.key, volume, offset, info.payload_bytes, live, header.sequence,
            info.k, info.n, info.segment_bytes, int(info.encoding), info.checksum,
        )  # fmt: skip

    @property
    def location(self) -> Location:
        return Location(self.volume, self.offset, self.payload_bytes, self.live)

    @property
    def info(self) -> ShardInfo:
        address = ShardAddress.from_key(self.key)
        encoding = Encoding(self.encoding)
        return ShardInfo(
            address, self.k, self.n, self.segment_bytes, encoding, self.payload_bytes, self.checksum
        )


class Index:
    """Safe to use from threads: one lock for the tables in memory, held for dictionary work
    only, and one for each of two SQLite connections, so that lookups do not wait for a flush."""

    def __init__(self, path: Path, node_id: str) -> None:
        """Raises IndexDamaged unless the file is absent or this node's index."""
        self._path = path
        self._memory = threading.Lock()
        self._pending: dict[bytes, Entry] = {}
        self._flushing: dict[bytes, Entry] = {}
        self._checkpoint: dict[int, int] = {}  # not yet flushed
        self._recent: RecentMap[Location] = RecentMap(RECENT_ENTRIES)
        self._flushes = 0
        self._next_sequence = 1
        self._flush_lock, self._query_lock = threading.Lock(), threading.Lock()
        self._writing, self._querying = _database(path), _database(path)
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
        (version,) = self._writing.execute_sql("PRAGMA user_version").fetchone()
        if version == 0:
            self._create(node_id)
        elif version != SCHEMA_VERSION:
            raise IndexDamaged(f"{self._path} has schema {version}, not {SCHEMA_VERSION}")
        self._querying.connect()
        meta = dict(self._querying.execute_sql("SELECT name, value FROM meta").fetchall())
        if meta.get("node_id") != node_id:
            raise IndexDamaged(f"{self._path} is the index of another node")
        self._next_sequence, self._live = int(meta["next_sequence"]), int(meta["live"])
        self._querying.execute_sql("SELECT * FROM record LIMIT 1").fetchall()

    def _create(self, node_id: str) -> None:
        with self._writing.atomic():
            for statement in filter(str.strip, _SCHEMA.split(";")):
                self._writing.execute_sql(statement)
            self._set_meta({"node_id": node_id, "next_sequence": 1, "live": 0})
            self._writing.execute_sql(f"PRAGMA user_version = {SCHEMA_VERSION}")

    # In memory

    def apply(
        self, entries: Iterable[Entry], scanned: Mapping[int, int], next_sequence: int
    ) -> None:
        """Note what has become durable: the records, how far each volume is known by them, and
        the first sequence number that is free."""
        with self._memory:
            for entry in entries:
                known = self._pending.get(entry.key)
                if known is None or entry.sequence >= known.sequence:
                    self._pending[entry.key] = entry
            self._checkpoint.update(scanned)
            self._next_sequence = max(self._next_sequence, next_sequence)

    def recall(self, key: bytes) -> Location | None:
        """The location if memory knows it, without any I/O; None says nothing."""
        with self._memory:
            entry = self._pending.get(key) or self._flushing.get(key)
            return entry.location if entry is not None else self._recent.get(key)

    @property
    def pending(self) -> int:
        return len(self._pending)

    @property
    def next_sequence(self) -> int:
        return self._next_sequence

    # Through SQLite

    def find(self, keys: Sequence[bytes]) -> list[Location | None]:
        """The location of each live shard, None for those that are not there. Raises Unavailable
        if the index cannot be read: an error is never an absence."""
        flushes = self._flushes
        found = {key: self.recall(key) for key in keys}
        unknown = [key for key, location in found.items() if location is None]
        for first in range(0, len(unknown), _KEYS_PER_QUERY):
            part = unknown[first : first + _KEYS_PER_QUERY]
            fields = "key, volume, offset, payload_bytes, live"
            rows = self._query(f"SELECT {fields} FROM record WHERE key IN ({_marks(part)})", part)
            located = {key: Location(*where) for key, *where in rows}
            found.update(located)
            self._remember(located, flushes)
        located_or_dead = (found[key] for key in keys)
        return [at if at is not None and at.live else None for at in located_or_dead]

    def _remember(self, located: Mapping[bytes, Location], flushes: int) -> None:
        """Cache what SQL said, unless it may be outdated: what changed since is in memory, or was
        there and has been flushed, which `flushes` tells."""
        with self._memory:
            if flushes != self._flushes:
                return
            for key, location in located.items():
                if key not in self._pending and key not in self._flushing:
                    self._recent.put(key, location)

    def page(self, after: bytes, limit: int) -> list[ShardInfo]:
        """The next live shards in order of key, everything applied before this call included."""
        self.flush()
        rows = self._query(
            "SELECT * FROM record WHERE key > ? AND live ORDER BY key LIMIT ?", [after, limit]
        )
        return [Entry(*row).info for row in rows]

    def live(self) -> int:
        """How many shards there are, likewise."""
        self.flush()
        return self._live

    def checkpoints(self) -> dict[int, int]:
        """By volume number: up to where the index knows it."""
        return dict(self._query("SELECT volume, scanned_bytes FROM checkpoint", []))

    def flush(self) -> None:
        """Bring what is pending to SQLite, in one transaction. Raises Unavailable; then nothing
        is lost from memory."""
        with self._flush_lock:
            with self._memory:
                entries, self._flushing, self._pending = self._pending, self._pending, {}
                scanned, self._checkpoint = self._checkpoint, {}
                next_sequence = self._next_sequence
            if not entries and not scanned:
                return
            try:
                live = self._write(entries, scanned, next_sequence)
            except _SQL_ERRORS as error:
                self._take_back(entries, scanned)
                raise Unavailable(f"the index cannot be written: {error}") from None
            self._finish_flush(entries, live)

    def settle(self) -> None:
        """End recovery, which applies records in any order: memory may have cached a record that
        lost to a later one in SQLite."""
        self.flush()
        with self._memory:
            self._recent = RecentMap(RECENT_ENTRIES)

    def _write(
        self, entries: Mapping[bytes, Entry], scanned: Mapping[int, int], next_sequence: int
    ) -> int:
        """How many shards are live afterwards."""
        keys = list(entries)
        with self._writing.atomic():
            before = self._count_live(keys)
            cursor = self._writing.cursor()
            cursor.executemany(_UPSERT, list(entries.values()))
            cursor.executemany("REPLACE INTO checkpoint VALUES (?, ?)", list(scanned.items()))
            live = self._live + self._count_live(keys) - before
            self._set_meta({"next_sequence": next_sequence, "live": live})
        return live

    def _count_live(self, keys: Sequence[bytes]) -> int:
        count = 0
        for first in range(0, len(keys), _KEYS_PER_QUERY):
            part = keys[first : first + _KEYS_PER_QUERY]
            query = f"SELECT count(*) FROM record WHERE live AND key IN ({_marks(part)})"
            count += self._writing.execute_sql(query, part).fetchone()[0]
        return count

    def _finish_flush(self, entries: Mapping[bytes, Entry], live: int) -> None:
        with self._memory:
            for key, entry in entries.items():
                self._recent.put(key, entry.location)
            self._flushing = {}
            self._flushes += 1
            self._live = live

    def _take_back(self, entries: dict[bytes, Entry], scanned: dict[int, int]) -> None:
        with self._memory:
            self._pending = {**entries, **self._pending}
            self._checkpoint = {**scanned, **self._checkpoint}
            self._flushing = {}

    def _set_meta(self, values: Mapping[str, int | str]) -> None:
        self._writing.cursor().executemany("REPLACE INTO meta VALUES (?, ?)", list(values.items()))

    def _query(self, query: str, parameters: Sequence[Any]) -> list[Any]:
        try:
            with self._query_lock:
                return list(self._querying.execute_sql(query, parameters).fetchall())
        except _SQL_ERRORS as error:
            raise Unavailable(f"the index cannot be read: {error}") from None

    def close(self) -> None:
        """Without a flush."""
        self._querying.close()
        self._writing.close()


def _database(path: Path) -> peewee.SqliteDatabase:
    pragmas = {"journal_mode": "wal", "synchronous": "normal", "busy_timeout": 10_000}
    return peewee.SqliteDatabase(
        str(path), pragmas=pragmas, thread_safe=False, check_same_thread=False
    )


def _marks(keys: Sequence[bytes]) -> str:
    return ",".join("?" * len(keys))


def remove_index(path: Path) -> None:
    """Delete the file and what SQLite keeps beside it."""
    for suffix in ("", "-wal", "-shm"):
        path.with_name(path.name + suffix).unlink(missing_ok=True)

"""Where every shard is: what is new or was used lately in memory, the rest in the index file.

What the writer makes durable is here at once, and goes to SQLite in batches.
"""

import logging
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

from common.errors import Unavailable
from common.failpoints import Point, failpoint
from common.shards import ShardInfo
from shardd.entries import Entry, Location
from shardd.index import IndexFile
from shardd.recent import RecentMap
from shardd.usage import Standing, VolumeUse, loser_of

log = logging.getLogger(__name__)

FLUSH_ENTRIES = 4096
RECENT_ENTRIES = 65_536


class Catalog:
    """Safe to use from threads. One lock, held for dictionary work only, guards the memory."""

    def __init__(self, path: Path, node_id: str) -> None:
        """Raises IndexDamaged as IndexFile does."""
        self.path = path
        self._file = IndexFile(path, node_id)
        self._memory, self._flush_lock = threading.Lock(), threading.Lock()
        self._pending: dict[bytes, Entry] = {}
        self._flushing: dict[bytes, Entry] = {}
        self._buried: set[tuple[bytes, int]] = set()  # dead before they came to SQLite
        self._scanned: dict[int, int] = {}  # checkpoints that are not flushed
        self._recent: RecentMap[Location] = RecentMap(RECENT_ENTRIES)
        self._next_sequence = self._file.next_sequence
        self._flushes = 0

    def apply(
        self, entries: Iterable[Entry], scanned: Mapping[int, int], next_sequence: int
    ) -> None:
        """Note what is durable: records, how far each volume is known by them, and the first
        sequence number that is free."""
        with self._memory:
            for entry in entries:
                known = self._pending.get(entry.key)
                if known is None or entry.sequence >= known.sequence:
                    self._pending[entry.key] = entry
                if known is not None:
                    self._bury_loser(known, entry)
            self._scanned.update(scanned)
            self._next_sequence = max(self._next_sequence, next_sequence)

    def bury(self, dead: Iterable[tuple[bytes, int]]) -> None:
        """Note dead records, by key and volume, that no row was ever of: tombstones over them are
        needed."""
        with self._memory:
            self._buried.update(dead)

    def _bury_loser(self, known: Entry, entry: Entry) -> None:
        loser = loser_of(known, entry)
        if loser is not None and loser.live:
            self._buried.add((loser.key, loser.volume))

    def recall(self, key: bytes) -> Location | None:
        """The location if memory knows it, without any I/O; None says nothing."""
        with self._memory:
            entry = self._pending.get(key) or self._flushing.get(key)
            return entry.location if entry is not None else self._recent.get(key)

    def find(self, keys: Sequence[bytes]) -> list[Location | None]:
        """Where each live shard is, None for one that is not there. Raises Unavailable if the
        index cannot be read: an error is never an absence."""
        places = self.places(keys)
        return [at if at is not None and at.live else None for at in places]

    def places(self, keys: Sequence[bytes]) -> list[Location | None]:
        """As `find`, with the places of tombstones too."""
        flushes = self._flushes
        found = {key: self.recall(key) for key in keys}
        unknown = [key for key, location in found.items() if location is None]
        if unknown:
            located = self._file.find(unknown)
            self._remember(located, flushes)
            found.update(located)
        return [found[key] for key in keys]

    def _remember(self, located: Mapping[bytes, Location], flushes: int) -> None:
        """Cache what SQL said, unless it may be outdated: what changed since is in memory, or was
        there and has been flushed, which `flushes` tells."""
        with self._memory:
            if flushes != self._flushes:
                return
            for key, location in located.items():
                if key not in self._pending and key not in self._flushing:
                    self._recent.put(key, location)

    @property
    def pending(self) -> int:
        """How many entries wait for a flush."""
        return len(self._pending)

    @property
    def next_sequence(self) -> int:
        return self._next_sequence

    def check(self) -> None:
        """As IndexFile.check."""
        self._file.check()

    @property
    def is_damaged(self) -> bool:
        """Whether the index file was found not to be what was written; another is to be made."""
        return bool(self._file.damage)

    def tell_damage(self, to: Callable[[str], None]) -> None:
        """Call `to`, from any thread, with what is wrong with the index file, whenever that is
        come across."""
        self._file.on_damage = to

    def checkpoints(self) -> dict[int, int]:
        """As IndexFile.checkpoints."""
        return self._file.checkpoints()

    def page(self, after: bytes, limit: int) -> list[ShardInfo]:
        """The next live shards in order of key, all that was applied before this included."""
        self.flush()
        return [entry.info for entry in self._file.page(after, limit)]

    def live(self) -> int:
        """How many shards there are, likewise; while SQLite fails, how many there were."""
        try:
            self.flush()
        except Unavailable as error:
            log.error("%s", error)
        return self._file.live

    # For compaction and scrub: as IndexFile, after a flush where it says so

    def use(self) -> dict[int, VolumeUse]:
        """As IndexFile.use, all that was applied before included."""
        self.flush()
        return self._file.use()

    def standing(self, keys: Sequence[bytes]) -> dict[bytes, Standing]:
        """As IndexFile.standing."""
        return self._file.standing(keys)

    def entries(self, keys: Sequence[bytes]) -> list[Entry]:
        """As IndexFile.entries, likewise."""
        self.flush()
        return self._file.entries(keys)

    def live_in(self, volume: int, after: int, limit: int) -> list[Entry]:
        return self._file.live_in(volume, after, limit)

    def tombstones_in(self, volume: int, after: int, limit: int) -> list[Entry]:
        return self._file.tombstones_in(volume, after, limit)

    def needed_tombstones_in(self, volume: int, after: int, limit: int) -> list[Entry]:
        return self._file.needed_tombstones_in(volume, after, limit)

    def count_needed_tombstones(self, volume: int) -> int:
        return self._file.count_needed_tombstones(volume)

    def forget(self, volume: int) -> None:
        """As IndexFile.forget, after a flush."""
        self.flush()
        with self._flush_lock:
            self._file.forget(volume)

    def flush(self) -> None:
        """Bring what is pending to SQLite. Raises Unavailable; nothing is lost from memory then."""
        with self._flush_lock:
            with self._memory:
                entries, self._pending = self._pending, {}
                buried, self._buried = self._buried, set()
                scanned, self._scanned = self._scanned, {}
                self._flushing, next_sequence = entries, self._next_sequence
            if not entries and not scanned and not buried:
                return
            try:
                self._file.write(entries, buried, scanned, next_sequence)
            except BaseException:
                self._take_back(entries, buried, scanned)
                raise
            self._finish_flush(entries)
        failpoint(Point.INDEX_FLUSHED)

    def _finish_flush(self, entries: Mapping[bytes, Entry]) -> None:
        with self._memory:
            for key, entry in entries.items():
                self._recent.put(key, entry.location)
            self._flushing = {}
            self._flushes += 1

    def _take_back(
        self,
        entries: dict[bytes, Entry],
        buried: set[tuple[bytes, int]],
        scanned: dict[int, int],
    ) -> None:
        with self._memory:
            self._buried |= buried
            for key in entries.keys() & self._pending.keys():
                self._bury_loser(entries[key], self._pending[key])
            self._pending = {**entries, **self._pending}
            self._scanned = {**scanned, **self._scanned}
            self._flushing = {}

    def settle(self) -> None:
        """End recovery, which applies records in any order: memory may have cached a record that
        lost to a later one in SQLite."""
        self.flush()
        with self._memory:
            self._recent = RecentMap(RECENT_ENTRIES)

    def close(self) -> None:
        """Without a flush."""
        self._file.close()

"""What histories of the test `bundles` happen in: one database that two coordinators share, nodes
that remember what it has told them, and all steps of both in an order that follows from a seed.
"""

import asyncio
import random
import shutil
import sqlite3
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any

from common.errors import FateUnknown, Undurable
from coordinator.metadata import Metadata, NewBundle, NewContent, open_metadata
from coordinator.metadata.marks import commit_mark
from coordinator.metadata.store import SESSION_LEASE_S
from tests.bundles import Ends
from tests.memory_cluster import MemoryCluster, paths
from tests.metadata_parts import GRACE_S, Clock
from tests.reports import incoming
from tests.schedules import GatedCluster, GatedThread, Gates

SEGMENT_BYTES = 2048
LOST_BEFORE, LOST_AFTER = 0.02, 0.04  # shares of COMMITs


class StillLoop(asyncio.SelectorEventLoop):
    """No time passes in it: no hedge of a read, and nobody's patience, depends on how busy the
    machine is."""

    def time(self) -> float:
        return 0.0


class World:
    """`refused` is the share of COMMITs that are; if it is not 0, others lose their answers.
    `counts` is of what was committed."""

    def __init__(self, directory: Path, rng: random.Random) -> None:
        self._directory, self._rng = directory, rng
        self.clock, self.nodes = Clock(), MemoryCluster()
        self.coordinators = list[Metadata]()
        self.refused = 0.0
        self.counts = Counter[str]()
        self._told = dict.fromkeys(self.nodes.stores, 0)

    async def open(self) -> None:
        """Both coordinators start, and the nodes report."""
        for _ in range(2):
            opened = open_metadata(self._directory, "", GRACE_S, self.clock)
            await opened.start()
            self.coordinators.append(opened)
        await self.hear()

    async def close(self) -> None:
        for each in self.coordinators:
            await each.close()
        self.coordinators.clear()

    async def hear(self) -> None:
        """The nodes report, and are told the epoch."""
        for number, epoch in self._told.items():
            taken = await self.coordinators[0].save_report(incoming(number, epoch=epoch))
            self._told[number] = taken.epoch
        await self.begin_sessions()

    async def begin_sessions(self) -> None:
        """As processes do whose lease has run out."""
        for each in self.coordinators:
            await each._begin_session()

    # Backups

    def back_up(self, backup: Path) -> None:
        backup.unlink(missing_ok=True)
        with closing(self._direct()) as database:
            database.execute("VACUUM INTO ?", (str(backup),))

    async def restore(self, backup: Path | None) -> None:
        """From now on the database is that one; a new one, if there is none."""
        await self.begin_sessions()  # what the nodes hear of now, no backup knows
        await self.hear()
        await self.close()
        for file in self._directory.glob("metadata.db*"):
            file.unlink()
        if backup is not None:
            shutil.copy(backup, self._directory / "metadata.db")
        await self.open()

    def rows(self, text: str, *values: object) -> list[tuple[Any, ...]]:
        """What a query finds, beside all steps."""
        with closing(self._direct()) as database:
            return database.execute(text, values).fetchall()

    def _direct(self) -> sqlite3.Connection:
        return sqlite3.connect(self._directory / "metadata.db", isolation_level=None)

    # Time

    def pass_time(self, seconds: int) -> None:
        """With all sessions renewed in time."""
        self.clock.now_s += seconds
        self._prolong(seconds, 0)

    def end_session(self, loser: Metadata) -> None:
        """But no other."""
        self.clock.now_s += SESSION_LEASE_S + 1
        self._prolong(SESSION_LEASE_S + 1, loser.session)

    def _prolong(self, seconds: int, but: int) -> None:
        with closing(self._direct()) as database:
            database.execute(
                "UPDATE session SET expires_at = expires_at + ? WHERE number <> ?", (seconds, but)
            )

    # Steps

    @contextmanager
    def gated(self, gates: Gates) -> Iterator[list[Ends]]:
        """The write path and the read path of each coordinator, all whose steps go through these
        gates, as do those of the databases' threads."""
        cluster = GatedCluster(self.nodes, gates, self.clock)
        with ExitStack() as stack:
            for name, metadata in zip("AB", self.coordinators, strict=True):
                stack.enter_context(self._gated_threads(name, metadata, gates))
            yield [
                stack.enter_context(paths(metadata, cluster, SEGMENT_BYTES))
                for metadata in self.coordinators
            ]

    @contextmanager
    def _gated_threads(self, name: str, metadata: Metadata, gates: Gates) -> Iterator[None]:
        threads = metadata._threads
        real = threads.reader, threads.writer
        reader: Any = GatedThread(f"{name} reads", threads.query, gates)
        writer: Any = GatedThread(f"{name} writes", self._faulty(threads.commit), gates)
        threads.reader, threads.writer = reader, writer
        try:
            yield
        finally:
            threads.reader, threads.writer = real

    def _faulty(self, commit: Callable[[list[Any]], list[Any]]) -> Callable[[list[Any]], list[Any]]:
        """Some COMMITs of uploads are refused, of some nobody knows what became."""

        def work(batch: list[Any]) -> list[Any]:
            faulty = self.refused and is_upload(batch[0])
            chance = self._rng.random() - self.refused if faulty else 1.0
            if chance < 0:
                return [Undurable("nodes were lost meanwhile")]
            if chance < LOST_BEFORE:
                return [FateUnknown("the disk failed before COMMIT")]
            answers = commit(batch)
            self._count(batch[0], answers[0])
            if chance < LOST_BEFORE + LOST_AFTER:
                return [FateUnknown("the disk failed after COMMIT")]
            return answers

        return work

    def _count(self, change: Any, answer: Any) -> None:
        if isinstance(change, NewBundle) and not isinstance(answer, BaseException):
            moved = sum(part.moved_from is not None for part in change.contents)
            self.counts["moved"] += moved
            self.counts["bundled"] += len(change.contents) - moved


def is_upload(change: Any) -> bool:
    """Or a part of one, or what the job moves."""
    is_mark = getattr(change, "func", None) is commit_mark
    return is_mark or isinstance(change, NewContent | NewBundle)

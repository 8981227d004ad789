"""Histories with an operator in them, who removes nodes, starts coordinators with other settings
and restores backups."""

import shutil
import sqlite3
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path

from hypothesis import strategies as st
from hypothesis.stateful import rule

from common.errors import Conflict
from coordinator.metadata import Wish
from coordinator.rebuild import Rebuild
from tests.torture.model_contents import IDS, pinned_in
from tests.torture.model_machine import StoreMachine, fronts, nodes
from tests.torture.one_process import SEGMENT_BYTES

SEGMENTS_BYTES = [SEGMENT_BYTES, SEGMENT_BYTES // 3, 2 * SEGMENT_BYTES]
SESSION_S = 70  # and every session has ended


@dataclass(frozen=True)
class Backup:
    """A copy of the database. `leaving` are the contents that were deleted and not yet collected
    when it was made."""

    path: Path
    leaving: frozenset[int]
    drained: frozenset[int]
    removed: frozenset[int]


class OperatedMachine(StoreMachine):
    """In each history one node is removed and one backup restored, at most."""

    backup: Backup | None = None
    restored = False

    @rule(front=fronts, segment_bytes=st.sampled_from(SEGMENTS_BYTES))
    def start_with(self, front: int, segment_bytes: int) -> None:
        """A coordinator that cuts contents otherwise."""
        self.run(self.store.restart_front(front, segment_bytes))

    @rule(node=nodes, front=fronts)
    def drain_and_remove(self, node: int, front: int) -> None:
        """It is refused as long as anything is left there."""
        if self.removed:
            return
        self.run(self.store.wish(node, Wish.DRAINING))
        self.drained.add(node)
        for job in ("repair", "outbox", "sweep"):
            self.run(self.store.pass_time(SESSION_S))
            self.run(self.store.fronts[front].work(job))
        self.run(self.forget_mended())
        self.run(self.store.pass_time(1))  # nodes report what they have now
        with suppress(Conflict):
            self.run(self.store.remove(front, node))
            self.removed.add(node)

    @rule()
    def back_up(self) -> None:
        if self.restored:
            return
        path = self.directory / "backup.db"
        path.unlink(missing_ok=True)
        with closing(sqlite3.connect(self.store.database)) as database:
            database.execute("VACUUM INTO ?", (str(path),))
            rows = database.execute("SELECT content FROM collect_queue").fetchall()
        leaving = frozenset(index for index, id_ in enumerate(IDS) if (bytes(id_),) in rows)
        self.backup = Backup(path, leaving, frozenset(self.drained), frozenset(self.removed))
        self.run(self.store.pass_time(SESSION_S))
        for front in self.store.fronts:  # new sessions, of which the nodes hear
            self.run(front.metadata._begin_session())
        self.run(self.store.pass_time(1))

    @rule()
    def restore(self) -> None:
        """And the rebuild that belongs to it, and everything that the jobs make of it. What the
        backup says was deleted stays so; what was deleted since may be there, but perhaps cannot
        be read."""
        if self.backup is None or self.restored or self.store.up != self.members:
            return
        if self.backup.removed != self.removed:
            return
        kept = self.present - self.backup.leaving
        readable = {index for index in kept if self.run(self.must_be_readable(index))}
        self.put_back(self.backup)
        visible = self.visible()
        assert kept <= visible
        self.doubtful = visible - kept
        self.present = visible
        self.run(self.until_idle())
        for index in readable:
            self.read(index, 0, 0, None)
            assert self.run(self.must_be_readable(index))
        assert self.run(self.store.fronts[0].metadata.allow_deletes())

    def put_back(self, backup: Backup) -> None:
        self.restored = True
        self.run(self.store.stop_fronts())
        for file in self.store.database.parent.glob("metadata.db*"):
            file.unlink()
        shutil.copy(backup.path, self.store.database)
        self.run(self.store.start_fronts())
        self.drained = set(backup.drained)
        self.promised.clear()
        front = self.store.fronts[0]
        assert "older than the nodes" in self.run(front.metadata.deletes_stopped())
        self.run(Rebuild(front.metadata, front.cluster, front.reads).run())
        self.pieces = pinned_in(self.store.database) - {bytes(id_) for id_ in IDS}
        self.run(self.store.pass_time(1))

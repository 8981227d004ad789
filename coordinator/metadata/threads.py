"""The two threads that work on the database: one looks up in groups, one commits in groups."""

import asyncio
import logging
from collections.abc import Callable
from functools import partial
from typing import Any

from peewee import PeeweeException

from common.errors import FateUnknown, MetadataDamaged, NotOurTurn, SixfoldError, Unavailable
from common.failpoints import Point, failpoint
from common.ids import Blake3Id, ContentId, SegmentId
from coordinator.metadata import reads
from coordinator.metadata.batching import BatchThread, own_copy
from coordinator.metadata.bundles import commit_bundle
from coordinator.metadata.checkpoints import Checkpointer
from coordinator.metadata.commits import Outcome, commit_contents
from coordinator.metadata.damage import Damage
from coordinator.metadata.remembered import Remembered
from coordinator.metadata.rows import CopyOf, NewBundle, NewContent
from coordinator.metadata.sql import Sql
from coordinator.metadata.writes import Layouts

log = logging.getLogger(__name__)

Query = Callable[[Sql], Any] | Blake3Id | CopyOf
Change = Callable[[Sql], Any] | NewContent | NewBundle


class Threads:
    """`reader` takes the ids of segments and contents, and queries; `writer` new contents, alone or
    in bundles, and changes. `session` tells the number of this process's session, which commits
    check, as they check that no node has been silent for `lost_after_s`."""

    def __init__(
        self,
        sql: Sql,
        grace_s: int,
        lost_after_s: float,
        layouts: Layouts,
        session: Callable[[], int],
    ) -> None:
        self._sql, self._grace_s, self._lost_after_s = sql, grace_s, lost_after_s
        self._layouts, self._session = layouts, session
        self.damage = Damage()
        self._checkpoints = Checkpointer(sql, self.damage)
        self._remembered = Remembered()
        self.writer = BatchThread[Change, Any]("metadata-writer", self.commit, sql.database.close)
        self.reader = BatchThread[Query, Any]("metadata-reader", self.query, sql.database.close)

    async def close(self) -> None:
        """Finish what waits, end the threads."""
        await self.writer.close()
        await self.reader.close()
        await asyncio.to_thread(self._checkpoints.close)

    def query(self, batch: list[Query]) -> list[Any]:
        """Ids are looked up together, a statement or two per kind; other queries one by one."""
        fresh_s = self._grace_s // 2
        lookups: dict[type, Callable[..., Any]] = {
            SegmentId: partial(reads.known_segments, fresh_s=fresh_s),
            ContentId: self._remembered.manifests,
            CopyOf: partial(reads.known_copies, fresh_s=fresh_s),
        }
        found = {}
        for kind, look_up in lookups.items():
            if ids := [ask for ask in batch if isinstance(ask, kind)]:
                found[kind] = self._attempt(partial(look_up, ids=ids))

        def answer(ask: Query) -> Any:
            if not isinstance(ask, Blake3Id | CopyOf):
                return self._attempt(ask)
            answers = found[type(ask)]
            return own_copy(answers) if isinstance(answers, Exception) else answers.get(ask)

        return [answer(ask) for ask in batch]

    def _attempt(self, step: Callable[[Sql], Any]) -> Any:
        """The step's answer, or the error that it ended with: those that share the batch with it
        get theirs."""
        try:
            self.damage.check()
            return step(self._sql)
        except Exception as error:
            return self._told(error)

    def _told(self, error: Exception) -> Exception:
        """What whoever asked hears of it."""
        try:
            self.damage.look_at(error)
        except MetadataDamaged as damaged:
            return damaged
        return _unavailable(error) if isinstance(error, PeeweeException) else error

    def commit(self, batch: list[Change]) -> list[Any]:
        """All in one transaction; if the database refuses that, each in its own."""
        try:
            self.damage.check()
            return self._commit_together(batch)
        except NotOurTurn as error:  # it would not be for each alone either
            return [NotOurTurn(str(error)) for _ in batch]
        except FateUnknown as error:  # each alone might be done a second time
            log.error("metadata database: %s", error)
            self._layouts.forget()
            self._told(error)
            return [FateUnknown(str(error)) for _ in batch]
        except Exception as error:
            self._layouts.forget()
            told = self._told(error)
            if len(batch) == 1 or isinstance(told, MetadataDamaged):
                return [own_copy(told) for _ in batch]
            return [answer for change in batch for answer in self.commit([change])]

    def _commit_together(self, batch: list[Change]) -> list[Any]:
        """First the new contents, with few statements; then all else, one after another."""
        uploads = [change for change in batch if isinstance(change, NewContent)]
        with self._sql.transaction():
            self._layouts.begin()
            outcomes = iter(self._commit_contents(uploads))
            answers = [
                next(outcomes) if isinstance(change, NewContent) else self._refusable(change)
                for change in batch
            ]
            stored = any(map(_is_stored, batch, answers))
            if stored:
                failpoint(Point.UPLOAD_COMMIT_BEGUN)
        if stored:
            failpoint(Point.UPLOAD_COMMITTED)
        self._checkpoints.committed(self._sql.rows_changed)
        return answers

    def _commit_contents(self, uploads: list[NewContent]) -> list[Outcome]:
        return commit_contents(
            self._sql, self._layouts, self._session(), uploads, self._lost_after_s
        )

    def _commit_bundle(self, new: NewBundle) -> list[bool]:
        return commit_bundle(self._sql, self._layouts, self._session(), new, self._lost_after_s)

    def _refusable(self, change: Callable[[Sql], Any] | NewBundle) -> Any:
        try:
            if isinstance(change, NewBundle):
                return self._commit_bundle(change)
            return change(self._sql)
        except SixfoldError as error:  # it refused before it wrote anything
            return error


def _is_stored(change: Change, answer: Any) -> bool:
    """Whether this is an upload, and was not refused."""
    return isinstance(change, NewContent | NewBundle) and not isinstance(answer, Exception)


def _unavailable(error: PeeweeException) -> Unavailable:
    log.error("metadata database: %s", error)
    return Unavailable(f"the metadata database failed: {error}")

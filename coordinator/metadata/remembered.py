"""Manifests that were looked up lately, for as long as nothing in the database has changed."""

from collections.abc import Iterable

from common.ids import ContentId
from coordinator.metadata import reads
from coordinator.metadata.rows import Manifest
from coordinator.metadata.sql import Sql

LIMIT = 4096  # of one segment each, so that they take some MB


class Remembered:
    """For one thread, which must not write to the database: it would not see its own changes.

    The version is asked for once for each batch of questions, all of which were there before it:
    so an answer is never older than its question.
    """

    def __init__(self) -> None:
        self._version = -1
        self._known: dict[ContentId, Manifest] = {}

    def manifests(self, sql: Sql, ids: Iterable[ContentId]) -> dict[ContentId, Manifest]:
        """As reads.manifests."""
        if (version := sql.version()) != self._version:
            self._version = version
            self._known.clear()
        wanted = set(ids)
        found = {id_: known for id_ in wanted if (known := self._known.get(id_)) is not None}
        if len(found) < len(wanted):
            looked_up = reads.manifests(sql, wanted.difference(found))
            self._remember(looked_up)
            found |= looked_up
        return found

    def _remember(self, manifests: dict[ContentId, Manifest]) -> None:
        if len(self._known) + len(manifests) > LIMIT:
            self._known.clear()
        self._known.update((id_, m) for id_, m in manifests.items() if len(m.segments) == 1)

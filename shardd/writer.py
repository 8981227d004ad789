"""The writer thread: group commit of all that waits.

One thread takes everything that has been submitted, writes it with one call per volume class,
syncs once per volume touched, tells the catalog, then answers all of it: what one fdatasync costs
is shared by everybody who came while the last one ran.
"""

import asyncio
import logging
import queue
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from common.errors import SixfoldError, StorageFull, StoreReadOnly, Unavailable, WrongNode
from common.failpoints import Point, failpoint
from common.ids import ShardAddress
from common.units import MIB
from shardd.catalog import FLUSH_ENTRIES, Catalog
from shardd.group import Group, WriteJob
from shardd.volume import LAST_SEQUENCE
from shardd.volumes import VolumeSet, is_full, is_passing

log = logging.getLogger(__name__)

_GROUP_BYTES = 16 * MIB  # a group takes no more submissions beyond this
_IDLE_S = 0.25  # so long without work, and the index is flushed
_PENDING_LIMIT = 8 * FLUSH_ENTRIES  # beyond this the writer waits for the index
_USED_UP = f"the sequence numbers are used up: {LAST_SEQUENCE} is the last"


@dataclass(frozen=True, slots=True)
class Submission:
    """Jobs that came together; `answered` is called with them on the event loop."""

    jobs: Sequence[WriteJob]
    answered: Callable[[Sequence[WriteJob]], None]

    @property
    def size_bytes(self) -> int:
        return sum(job.size_bytes for job in self.jobs)


class GroupWriter:
    """Owns the thread. `failure` is why the store takes no more writes; once set it stays."""

    def __init__(
        self,
        volumes: VolumeSet,
        catalog: Catalog,
        reserve_bytes: int,
        flush: Callable[[], None],
        done: Callable[[Sequence[WriteJob]], None],
        is_bad: Callable[[ShardAddress], bool],
    ) -> None:
        """`flush` asks, from this thread, for the index to be flushed in the background. `done` is
        called on the event loop with all jobs of a group, before they are answered. `is_bad` as in
        Group."""
        self.failure: str | None = None
        self._volumes, self._catalog, self._flush, self._done = volumes, catalog, flush, done
        self._reserve_bytes, self._is_bad = reserve_bytes, is_bad
        self._sequence = catalog.next_sequence
        if self._sequence > LAST_SEQUENCE:
            self.fail(_USED_UP)
        self._loop = asyncio.get_running_loop()
        self._queue: queue.SimpleQueue[Submission | None] = queue.SimpleQueue()
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="shardd-writer")
        self._thread.start()

    def submit(
        self, jobs: Sequence[WriteJob], answered: Callable[[Sequence[WriteJob]], None]
    ) -> None:
        """From the event loop. Raises Unavailable once the store is closing."""
        if self._closed:
            raise Unavailable("the node is stopping")
        self._queue.put(Submission(jobs, answered))

    async def close(self) -> None:
        """Take no more, finish what was submitted, end the thread."""
        if not self._closed:
            self._closed = True
            self._queue.put(None)
        await asyncio.to_thread(self._thread.join)

    def _run(self) -> None:
        while (group := self._take()) is not None:
            self._commit([job for submission in group for job in submission.jobs])
            self._loop.call_soon_threadsafe(self._answer, group)
            if self._catalog.pending >= FLUSH_ENTRIES:
                self._flush()
            if self._catalog.pending >= _PENDING_LIMIT:
                self._wait_for_index()

    def _take(self) -> list[Submission] | None:
        """All that waits, at least one submission; None when it is time to end."""
        first = self._next()
        if first is None:
            return None
        group, size_bytes = [first], first.size_bytes
        while size_bytes < _GROUP_BYTES:
            try:
                more = self._queue.get_nowait()
            except queue.Empty:
                break
            if more is None:
                self._queue.put(None)  # end after this group
                break
            group.append(more)
            size_bytes += more.size_bytes
        return group

    def _next(self) -> Submission | None:
        try:
            return self._queue.get(timeout=_IDLE_S)
        except queue.Empty:
            if self._catalog.pending:
                self._flush()
            return self._queue.get()

    def _wait_for_index(self) -> None:
        try:
            self._catalog.flush()
        except SixfoldError as error:
            self.fail(str(error))

    def _commit(self, jobs: Sequence[WriteJob]) -> None:
        group = Group(self._volumes, self._catalog, self._sequence, self._is_bad)
        try:
            self._admit(group, jobs)
            self._store(group)
        except (OSError, Unavailable, WrongNode) as error:
            self._undo(group, jobs, error)
        except Exception as error:
            # A defect must not leave callers waiting for ever, nor be built upon.
            log.exception("the writer failed")
            self.fail(f"the writer failed: {error!r}")
            self._refuse(jobs, StoreReadOnly(self.failure))

    def _admit(self, group: Group, jobs: Sequence[WriteJob]) -> None:
        room_bytes = self._volumes.room_bytes()
        for job in jobs:
            try:
                if self.failure is not None:
                    raise StoreReadOnly(self.failure)
                if job.seal:
                    self._seal(job.seal)
                job.verify()
                self._check_numbers(group.next_sequence + job.most_records)
                reserve_bytes = self._reserve_bytes if job.appends else 0
                if group.size_bytes + job.size_bytes > room_bytes - reserve_bytes:
                    raise StorageFull("the node's disk is full")
                group.add(job)
            except SixfoldError as error:
                job.error = error

    def _check_numbers(self, following: int) -> None:
        """`following` is the first number that would be free. Raises StoreReadOnly, from then on,
        rather than acknowledge what the next recovery would not believe."""
        if following > LAST_SEQUENCE + 1:
            self.fail(_USED_UP)
            raise StoreReadOnly(self.failure)

    def _seal(self, volume: int) -> None:
        try:
            self._volumes.seal(volume)
        except OSError as error:
            if is_full(error):
                raise StorageFull(f"no room for a volume after {volume}: {error}") from None
            if is_passing(error):
                raise Unavailable(f"no volume can be begun now: {error}") from None
            self.fail(f"a volume could not be begun: {error}")
            raise StoreReadOnly(self.failure) from None

    def _store(self, group: Group) -> None:
        if not group.size_bytes:
            return
        group.write()
        try:
            group.sync()
        except OSError as error:
            # The kernel may have dropped the dirty pages and would report success the next time:
            # a second fsync proves nothing (Rebello et al., "Can Applications Recover from fsync
            # Failures?", 2020).
            self.fail(f"fsync failed: {error}")
            self._refuse(group.jobs, StoreReadOnly(self.failure))
            return
        self._sequence = group.next_sequence
        group.publish()

    def _undo(
        self, group: Group, jobs: Sequence[WriteJob], error: OSError | Unavailable | WrongNode
    ) -> None:
        """A write failed before anything was acknowledged: leave no trace of it."""
        refusal = _refusal(error)
        if refusal is None:
            self.fail(f"writing failed: {error}")
        try:
            group.cut()
        except OSError as second:
            self.fail(f"cutting back after a failed write failed: {second}")
        if refusal is None or self.failure is not None:
            refusal = StoreReadOnly(self.failure)
        self._refuse(jobs, refusal)

    def _refuse(self, jobs: Sequence[WriteJob], error: SixfoldError) -> None:
        """All of them, whether or not it had come to their turn; a reason of their own stays."""
        for job in jobs:
            job.error = job.error or error

    def fail(self, reason: str) -> None:
        """Take no more writes from now on; the first reason stays. From any thread."""
        if self.failure is None:
            self.failure = reason
            log.critical("the store is read-only from now on: %s", reason)

    def _answer(self, group: Sequence[Submission]) -> None:
        for submission in group:
            self._done(submission.jobs)
        for submission in group:
            submission.answered(submission.jobs)
        failpoint(Point.GROUP_ANSWERED)


def _refusal(error: OSError | Unavailable | WrongNode) -> SixfoldError | None:
    """What callers are told if the store can go on after `error`, else None."""
    if isinstance(error, Unavailable):
        return error
    if isinstance(error, WrongNode):
        return None
    if is_full(error):
        return StorageFull(f"the node's disk is full: {error}")
    if is_passing(error):
        return Unavailable(f"the node cannot write now: {error}")
    return None

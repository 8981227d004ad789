"""Named points of the protocols at which a test ends the process, or runs what it likes.

Every step of writing, repairing, draining, deleting and compacting after which a crash could leave
something half done is a `Point`. In production nothing is armed, and a point costs one look at an
empty dictionary. A process is armed by its environment: `SIXFOLD_FAILPOINT=upload-stored:3` ends it
(`_exit(9)`, no cleanup, as a crash would) when it comes to that point for the third time.

The idea is FreeBSD's fail(9), by way of TiKV's fail-rs.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import StrEnum

ENVIRONMENT = "SIXFOLD_FAILPOINT"
EXIT_CODE = 9


class Point(StrEnum):
    """Where. The names tell what has just been done."""

    UPLOAD_SHARD_STORED = "upload-shard-stored"  # one of them
    UPLOAD_SHARDS_STORED = "upload-shards-stored"
    UPLOAD_DISCARDED = "upload-discarded"
    UPLOAD_COMMIT_BEGUN = "upload-commit-begun"
    UPLOAD_COMMITTED = "upload-committed"
    VOLUME_WRITTEN = "volume-written"  # its superblock; not synced
    VOLUME_SYNCED = "volume-synced"  # but for its name
    VOLUME_CREATED = "volume-created"
    GROUP_WRITTEN = "group-written"  # to one volume
    GROUP_SYNCED = "group-synced"  # in one volume
    GROUP_PUBLISHED = "group-published"
    GROUP_ANSWERED = "group-answered"
    INDEX_FLUSHED = "index-flushed"
    INDEX_UNSEALED = "index-unsealed"
    TAIL_SYNCED = "tail-synced"  # of a volume, before it is read
    TAIL_CUT = "tail-cut"
    COMPACT_SEALED = "compact-sealed"
    COMPACT_MOVED = "compact-moved"
    COMPACT_COPIED = "compact-copied"
    COMPACT_FORGOTTEN = "compact-forgotten"
    COMPACT_REMOVED = "compact-removed"
    QUARANTINE_WRITTEN = "quarantine-written"
    QUARANTINE_BURIED = "quarantine-buried"
    QUARANTINE_RESTORED = "quarantine-restored"
    MEND_SURVEYED = "mend-surveyed"
    MEND_SHARD_WRITTEN = "mend-shard-written"  # one of them
    MEND_WRITTEN = "mend-written"
    MEND_SWITCH_BEGUN = "mend-switch-begun"  # in the transaction
    MEND_SWITCHED = "mend-switched"
    UNPIN_BEGUN = "unpin-begun"  # in the transaction
    UNPINNED = "unpinned"
    COLLECT_BEGUN = "collect-begun"  # in the transaction
    COLLECTED = "collected"
    DELETES_READ = "deletes-read"  # of the outbox
    DELETES_SENT = "deletes-sent"
    DELETES_FINISHED = "deletes-finished"
    SWEEP_LISTED = "sweep-listed"
    SWEEP_NOTED = "sweep-noted"
    SWEEP_CONDEMNED = "sweep-condemned"
    QUARANTINE_SENT = "quarantine-sent"


_armed: dict[Point, Callable[[], None]] = {}


def failpoint(point: Point) -> None:
    """The process has come to `point`."""
    if _armed and (action := _armed.get(point)) is not None:
        action()


@contextmanager
def armed(point: Point, action: Callable[[], None]) -> Iterator[None]:
    """Within the block `action` runs whenever this process comes to `point`; what it raises, the
    code at that point raises."""
    _armed[point] = action
    try:
        yield
    finally:
        del _armed[point]


def arm(wanted: str, end: Callable[[int], object]) -> None:
    """Called once, by a server's `main`, with what the environment says, perhaps nothing, and what
    ends a process. Raises ValueError for a point that there is not."""
    if wanted:
        name, _, count = wanted.partition(":")
        _armed[Point(name)] = _Countdown(int(count or 1), end)


class _Countdown:
    """Ends the process when it is called for the `count`th time."""

    def __init__(self, count: int, end: Callable[[int], object]) -> None:
        self._left, self._end = count, end

    def __call__(self) -> None:
        self._left -= 1
        if self._left == 0:
            self._end(EXIT_CODE)

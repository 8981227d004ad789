"""What goes into the metadata database and comes out of it, as plain values."""

from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass, field
from enum import IntEnum, StrEnum
from typing import Any, NamedTuple

from common.ids import ContentId, SegmentId, ShardAddress
from common.membership import NodeReport
from common.shards import Encoding

NO_NODE = 0  # in a layout: this shard was never confirmed and waits for repair
CHECKSUM_BYTES = 32
UNKNOWN_CHECKSUM = bytes(CHECKSUM_BYTES)  # of a shard that no node had at a rebuild
COLLECT, OUTBOX = "collect", "outbox"  # the two jobs that delete, and their leases
GENERATION_COUNTER_BITS = 32  # of a generation; above them stands the session number
MAX_SESSION = 1 << 30  # no store comes near, and from there as many are left
UNUSED_S = 120  # a place where a shard was deleted; longer than a delete is on its way
Places = frozenset[tuple[int, int]]  # (shard index, node)


@dataclass(frozen=True, slots=True)
class StoredSegment:
    """One segment as its shards lie on nodes: `layout[i]` holds shard i, `checksums` their n
    checksums one after another. `known_bad` is the mask of the shards that were found to be gone
    or rotten there, and not mended since."""

    id: SegmentId
    size_bytes: int
    encoding: Encoding
    k: int
    n: int
    generation: int
    layout: tuple[int, ...]
    checksums: bytes
    known_bad: int = 0

    def address(self, index: int) -> ShardAddress:
        return ShardAddress(self.id, self.generation, index)

    def checksum(self, index: int) -> bytes:
        return self.checksums[index * CHECKSUM_BYTES : (index + 1) * CHECKSUM_BYTES]

    def places(self, indexes: Iterable[int]) -> Places:
        """Where these shards lie."""
        return frozenset((index, self.layout[index]) for index in indexes)

    @property
    def shard_bytes(self) -> int:
        return -(-self.size_bytes // self.k)

    @property
    def all_known_bad(self) -> bool:
        """So they are marked too if each fits its checksum, but they do not belong together, or not
        to the segment's id: then nobody knows which are right."""
        return self.known_bad == (1 << self.n) - 1


@dataclass(frozen=True, slots=True)
class KnownSegment:
    """A live segment that a PUT can refer to instead of writing it (dedup)."""

    stored: StoredSegment
    fresh: bool  # touched so lately that no collector may take it: needs no touch now
    doubtful: bool = False  # only a backup says so (see sessions.doubt): it must be read


@dataclass(frozen=True, slots=True)
class KnownCopy:
    """Where the bytes of a small content are: a segment of their own, or in a bundle, from
    `start_bytes` on. None is a segment of their own that is known to be lost: written anew, it
    heals all that need it."""

    segment: KnownSegment | None
    start_bytes: int | None


class CopyOf(NamedTuple):
    """The question for that."""

    id: ContentId


@dataclass(frozen=True, slots=True)
class Manifest:
    """All that a read needs: the content and its segments in order, or the bundle that it is in,
    from `start_bytes` on."""

    id: ContentId
    size_bytes: int
    created_at_s: int
    segments: tuple[StoredSegment, ...]
    start_bytes: int | None = None

    @property
    def is_complete(self) -> bool:
        """Whether the database has all that the content is made of."""
        there_bytes = sum(segment.size_bytes for segment in self.segments)
        if self.start_bytes is None:
            return there_bytes == self.size_bytes
        return there_bytes >= self.start_bytes + self.size_bytes


class Wish(StrEnum):
    """What the operator wants of a node."""

    ACTIVE = "active"
    DRAINING = "draining"
    REMOVED = "removed"


class DeleteReason(IntEnum):
    """Why shards are in the outbox. Of a doomed segment all are; it has no other row any more."""

    LEFTOVER = 1  # of an upload that failed, or came second
    DOOMED = 2
    RETIRED = 3  # another node holds the shard now
    ORPHAN = 4  # nothing referred to it, twice: goes to quarantine, nowhere else


@dataclass(frozen=True, slots=True)
class ShardsOnNode:
    """Exact shards, of one act of writing a segment, on an exact node: what a delete names."""

    node: int
    addresses: tuple[ShardAddress, ...]


@dataclass(frozen=True, slots=True)
class RepairNotice:
    """A segment that is short of good shards. `bad` are those found gone or rotten on their nodes,
    `gone` those that went with theirs. Of a shard that cannot be reached nothing is known."""

    segment: SegmentId
    generation: int
    reason: str
    bad: Places = frozenset()
    gone: Places = frozenset()


@dataclass(frozen=True, slots=True)
class Seen:
    """What a look at all shards of a segment found, as masks: those that are good now, those that
    are gone or rotten where they should be, those that are on no node. Of others nothing is
    known."""

    good: int = 0
    bad: int = 0
    gone: int = 0


@dataclass(frozen=True, slots=True)
class NewContent:
    """What one upload wants to make visible, in one transaction.

    `segments` are those of the content in order; `written` is the part of them (and of the
    segment list, if there is one) that this upload wrote itself, the rest was there before.
    `unconfirmed` are shards that may lie on nodes although no layout names them. `unreadable` are
    the generations of segments that were there too but could not be read: what was written takes
    their place. A content that was found in a bundle, its one segment, begins at `start_bytes`.
    `proven` are segments that only a backup said were there, and of which every shard was read.
    """

    id: ContentId
    size_bytes: int
    segments: Sequence[StoredSegment]
    segment_list: StoredSegment | None
    written: Sequence[StoredSegment]
    unconfirmed: Sequence[ShardsOnNode] = ()
    unreadable: Mapping[SegmentId, int] = field(default_factory=dict)
    start_bytes: int | None = None
    proven: Set[SegmentId] = frozenset()


@dataclass(frozen=True, slots=True)
class Committed:
    """What COMMIT made of it. `new` says that it was not visible before. Of the segments `others`
    that the upload wrote something else stands: somebody else was first."""

    new: bool
    others: Set[SegmentId] = frozenset()


@dataclass(frozen=True, slots=True)
class Bundled:
    """A content in a bundle. `moved_from` is the bundle that it was in, if it is not uploaded."""

    id: ContentId
    start_bytes: int
    size_bytes: int
    moved_from: SegmentId | None = None


@dataclass(frozen=True, slots=True)
class NewBundle:
    """What several uploads want to make visible, in one transaction: a segment that has just been
    written, and the contents in it, no two alike. `unconfirmed` as in NewContent."""

    segment: StoredSegment
    contents: Sequence[Bundled]
    unconfirmed: Sequence[ShardsOnNode] = ()


@dataclass(frozen=True, slots=True)
class NodeRow:
    """A node as it registered, and what the operator wants of it. `node_id` is 32 hex digits."""

    number: int
    node_id: str
    name: str
    zone: str
    wish: Wish = Wish.ACTIVE

    @classmethod
    def of(cls, row: Sequence[Any]) -> "NodeRow":
        """From its columns in this order."""
        number, node_id, name, zone, wish = row
        return cls(number, node_id, name, zone, Wish(wish))


@dataclass(frozen=True, slots=True)
class SharedReport:
    """The latest report of a node, to whichever process it came. `age_s` is by the database's
    clock; `version` grows with every report of the node."""

    node: NodeRow
    version: int
    report: NodeReport
    age_s: int


@dataclass(frozen=True, slots=True)
class JobState:
    """What a job remembers and shows of itself, and how long ago it said so."""

    state: Mapping[str, Any]
    age_s: int


@dataclass(frozen=True, slots=True)
class OutboxRow:
    """A delete that is due."""

    id: int
    shards: ShardsOnNode
    why: DeleteReason


@dataclass(frozen=True, slots=True)
class DueDeletes:
    """Deletes that are due on one node, and the epoch as of when they were read."""

    epoch: int
    rows: Sequence[OutboxRow]

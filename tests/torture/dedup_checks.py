"""What must hold in a schedule of the test `dedup`, after each of its steps and in the end."""

import sqlite3
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from common.errors import NotFound, SixfoldError
from common.hashing import blake3_digest
from common.ids import ContentId, SegmentId, ShardAddress
from coordinator.metadata import Metadata
from coordinator.metadata.packing import unpack_layout
from coordinator.metadata.rows import NO_NODE
from coordinator.read_path import ReadPath
from tests.memory_cluster import MemoryCluster, get
from tests.metadata_parts import Clock
from tests.schedules import Step

CHANGES = (  # steps that begin so may change what layouts name, or what is there
    "delete", "quarantine", "A writes NewContent", "B writes NewContent", "A writes switch",
    "B writes switch", "A writes NewBundle", "B writes NewBundle",
)  # fmt: skip
TABLES = (
    "segment", "content", "content_segment", "pin", "collect_queue", "outbox_delete", "orphan",
    "repair_queue", "rebundle_queue",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class World:
    """One database that two coordinators share, and nodes: used by one schedule after another."""

    clock: Clock
    nodes: MemoryCluster
    coordinators: tuple[Metadata, Metadata]
    direct: sqlite3.Connection  # to look at the database beside all steps


@dataclass(frozen=True, slots=True)
class Event:
    """What a client did, from which step to which, and whether it was told that it was done."""

    verb: str
    data: bytes
    began: int
    ended: int
    done: bool


class Checks:
    """`events` are told by the schedule, `steps` are the names of those that were done; what does
    not hold goes to `violations`."""

    def __init__(self, world: World, contents: Sequence[bytes]) -> None:
        self._world, self._contents = world, contents
        self.events = list[Event]()
        self.steps: Sequence[str] = ()
        self.violations = list[str]()

    def look(self, step: Step) -> None:
        """After each step that may have changed it: what layouts name is there."""
        if self.violations or not step.name.startswith(CHANGES):
            return
        lost = [shard for shard in self._named() if not self._is_there(*shard)]
        if lost:
            (node, address), steps = lost[0], " < ".join(reversed(self.steps[-60:]))
            self.violations.append(f"{address} is gone from node {node} after {steps}")

    def _named(self) -> Iterator[tuple[int, ShardAddress]]:
        rows = self._world.direct.execute(
            "SELECT s.id, s.generation, l.nodes FROM segment s JOIN layout l ON l.id = s.layout"
        )
        for id_, generation, nodes in rows:
            for index, node in enumerate(unpack_layout(nodes)):
                if node != NO_NODE:
                    yield node, ShardAddress(SegmentId(id_), generation, index)

    def _is_there(self, node: int, address: ShardAddress) -> bool:
        return address in self._world.nodes.stores[node].records

    def no_orphans(self) -> None:
        """But for shards of segments that wait for repair: it may come to look for them."""
        rows = self._world.direct.execute("SELECT segment, generation FROM repair_queue").fetchall()
        orphans = [
            (node, address)
            for node, address in self._world.nodes.shards() - set(self._named())
            if (bytes(address.segment), address.generation) not in rows
        ]
        if orphans:
            self.violations.append(f"{len(orphans)} orphans are left, such as {orphans[0]}")

    def lists(self) -> None:
        """From which the database could be rebuilt."""
        (lost,) = self._world.direct.execute(
            "SELECT count(*) FROM content WHERE segment_list NOT IN (SELECT id FROM segment)"
        ).fetchone()
        if lost:
            self.violations.append("the segment list of a content is gone")

    async def contents(self, reads: ReadPath) -> None:
        for data in self._contents:
            try:
                if await get(reads, content_id(data)) != data:
                    self.violations.append("other bytes are read back")
            except NotFound:
                if self._must_be_there(data):
                    self.violations.append(f"an acknowledged content is gone: {self.events}")
            except SixfoldError as error:
                self.violations.append(f"a visible content cannot be read: {error}")

    def _must_be_there(self, data: bytes) -> bool:
        """Whether an upload was acknowledged, and no deletion ended after it began."""
        deletes = [e.ended for e in self.events if (e.verb, e.data) == ("delete", data)]
        return any(
            event.done
            and event.verb in ("put", "vanish")
            and max(deletes, default=0) <= event.began
            for event in self.events
            if event.data == data
        )

    def nothing_left(self) -> None:
        """Everything was deleted: not a row, not a shard stays."""
        for table in TABLES:
            (rows,) = self._world.direct.execute(f"SELECT count(*) FROM {table}").fetchone()
            if rows:
                self.violations.append(f"{rows} rows of {table} are left")
        if shards := self._world.nodes.shards():
            self.violations.append(f"{len(shards)} shards are left in the end")


def content_id(data: bytes) -> ContentId:
    return ContentId(blake3_digest(data))

"""What is known of the contents of the test `bundles`: which must be there, which must not."""

import random
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence, Set
from enum import Enum

from common.bundle import parts_of
from common.errors import NotFound, SixfoldError
from common.hashing import blake3_digest
from common.ids import ContentId, SegmentId
from common.segment_list import SegmentList
from common.shards import Encoding, ShardRecord
from coordinator.read_path import ReadPath
from tests.memory_cluster import CODEC, MemoryCluster, get
from tests.torture.bundle_world import SEGMENT_BYTES, World

SIZES = (5, 40, 300, 1500)
SMALL = 26
LARGE = 4
RENEWED = 0.4


class State(Enum):
    """Of a content, as its clients know it."""

    THERE = "acknowledged"
    GONE = "deleted, or never stored"
    MAYBE = "neither is certain"


class Ledger:
    """`begun` counts the uploads of each content, and of those that it is a piece of. `unmarked`
    are pieces that a rebuild may take for that and no more: since the last upload of what they are
    a piece of that did not fail, one has failed, or went on beside a rebuild. `unsettled` are those
    whose uploaders have gone away while a transaction may have been on its way."""

    def __init__(self, rng: random.Random) -> None:
        self.contents = _contents(rng)
        self.ids = [ContentId(blake3_digest(data)) for data in self.contents]
        self.states = [State.GONE] * len(self.contents)
        self.begun = [0] * len(self.contents)
        self.unmarked = set[int]()
        self.unsettled = set[int]()
        self._pieces = _pieces(self.contents)
        self.acknowledged = 0
        self.violations = list[str]()

    def begin(self, content: int) -> None:
        """An upload of it."""
        for each in {content, *self._pieces[content]}:
            self.begun[each] += 1

    def stored(self, content: int) -> None:
        self.states[content] = State.THERE
        self.unmarked -= self._pieces[content] - {content}
        self.acknowledged += 1

    def failed(self, content: int) -> None:
        """An upload of it, in one way or another."""
        self.unmarked |= self._pieces[content]
        if self.states[content] is State.GONE:
            self.states[content] = State.MAYBE

    def vanished(self, content: int) -> None:
        """Who uploaded it has gone away; what was sent may still take effect, later."""
        self.failed(content)
        self.unsettled.add(content)

    def deleted(self, content: int) -> None:
        unsettled = content in self.unsettled
        self.states[content] = State.MAYBE if unsettled else State.GONE

    def renew(self, rng: random.Random) -> None:
        """Some of those that are gone are given up, for others that were never there. No pieces."""
        for content in range(LARGE, SMALL):
            if self.states[content] is State.GONE and rng.random() < RENEWED:
                data = rng.randbytes(rng.choice(SIZES))
                self.contents[content], self.ids[content] = data, ContentId(blake3_digest(data))
                self.begun[content] += 1

    def having(self, *states: State) -> list[int]:
        return [content for content, state in enumerate(self.states) if state in states]

    def wrong(self, content: int, what: object) -> None:
        state, size_bytes = self.states[content].value, len(self.contents[content])
        self.violations.append(f"content {content} of {size_bytes} bytes ({state}): {what}")

    async def look(self, content: int, reads: ReadPath) -> None:
        """Whether it is as it should be; from now on that is certain."""
        state = self.states[content]
        try:
            if await get(reads, self.ids[content]) != self.contents[content]:
                self.wrong(content, "other bytes are read back")
            elif state is State.GONE:
                self.wrong(content, "it can be read")
            self.states[content] = State.THERE
        except NotFound as error:
            if state is State.THERE:
                self.wrong(content, error)
            self.states[content] = State.GONE
        except SixfoldError as error:
            self.wrong(content, error)

    def queued(self, world: World) -> set[int]:
        """Those that wait to be collected."""
        rows = {bytes(id_) for (id_,) in world.rows("SELECT content FROM collect_queue")}
        return {content for content in self.having(State.GONE) if self.ids[content] in rows}

    def deleted_for_good(self, world: World) -> dict[int, int]:
        """Those that were deleted, and that no rebuild of this database brings back: nodes have
        nothing of them but segments of their own that it knows. Lists and bundles count, since one
        that is known may be collected, and found again, beside the rebuild. With how many uploads
        of them have begun: one more, and they may be there."""
        known = "SELECT id, generation FROM segment WHERE encoding = ?"
        return self._gone_but(world.nodes, set(world.rows(known, int(Encoding.PLAIN))))

    def nowhere(self, nodes: MemoryCluster) -> dict[int, int]:
        """Of those the ones that no node has: no rebuild of an empty database finds them."""
        return self._gone_but(nodes, set())

    def _gone_but(self, nodes: MemoryCluster, known: Set[tuple[bytes, int]]) -> dict[int, int]:
        found = set(on_nodes(nodes, known))
        gone = self.having(State.GONE)
        return {content: self.begun[content] for content in gone if self.ids[content] not in found}

    def not_marked(self) -> None:
        """Uploads went on while the database did not know all there is; or it is a backup, and may
        know a whole of which only a piece is left."""
        self.unmarked.update(*self._pieces)

    def not_sure(self, deleted: Mapping[int, int]) -> None:
        """A rebuild may have brought back what was deleted, but for these."""
        for content in self.having(State.GONE):
            if deleted.get(content) != self.begun[content]:
                self.states[content] = State.MAYBE


def on_nodes(nodes: MemoryCluster, known: Set[tuple[bytes, int]]) -> Iterator[bytes]:
    """The contents that a rebuild may find on nodes, in what was written by other acts of writing
    than those that are known, by segment and generation."""
    shards = defaultdict[tuple[SegmentId, int], dict[int, ShardRecord]](dict)
    for store in nodes.stores.values():
        for address, record in store.records.items():
            if (address.segment, address.generation) not in known:
                shards[address.segment, address.generation][address.index] = record
    for (segment, _), records in shards.items():
        encoding = next(iter(records.values())).info.encoding
        plain = b"" if encoding is Encoding.PLAIN else _plain_bytes(records)
        if encoding is Encoding.PLAIN:
            yield segment
        elif plain and encoding is Encoding.SEGMENT_LIST:
            yield SegmentList.unpack(plain).content
        elif plain:
            yield from (blake3_digest(plain[part.start : part.end]) for part in parts_of(plain))


def _plain_bytes(records: Mapping[int, ShardRecord]) -> bytes:
    """Empty if too few are left."""
    info = next(iter(records.values())).info
    if len(records) < info.k:
        return b""
    stripe = memoryview(bytearray(info.n * info.payload_bytes))
    for index, row in enumerate(CODEC.split(stripe, info.payload_bytes)):
        if index in records:
            row[:] = records[index].payload
    missing = [index for index in range(info.k) if index not in records]
    CODEC.recover_in_place(stripe, info.segment_bytes, sorted(records)[: info.k], missing)
    return bytes(stripe[: info.segment_bytes])


def _contents(rng: random.Random) -> list[bytes]:
    """Small ones, and large ones whose segments are contents too."""
    small = [rng.randbytes(rng.choice(SIZES)) for _ in range(SMALL)]
    heads = [rng.randbytes(SEGMENT_BYTES) for _ in range(LARGE)]
    large = [head + tail for head, tail in zip(heads, small, strict=False)]
    return list(dict.fromkeys([*small, *large, heads[0]]))


def _pieces(contents: Sequence[bytes]) -> list[set[int]]:
    """For each those that are pieces of it, and itself if it is one."""
    pieces = [
        {
            at
            for at, each in enumerate(contents)
            if each in (data[:SEGMENT_BYTES], data[SEGMENT_BYTES:])
        }
        for data in contents
    ]
    of_any = set[int]().union(*(p - {at} for at, p in enumerate(pieces)))
    return [(p & of_any) for p in pieces]

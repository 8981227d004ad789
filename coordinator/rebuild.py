"""Rebuilds the metadata from the nodes alone, after the database was lost.

Every shard says whose it is, and a content of several segments stored its segment list as a
segment of its own; so everything comes back but names and accounts. Each segment that no list
mentions becomes a content: deleted contents of one segment whose space was not collected yet
come back too.

Nothing is deleted meanwhile, so that what nodes have listed is still there when the database comes
to name it. If this database is not the one that the nodes knew, the sweep may have taken for
orphans what only the other one knew: of the sessions of then, what is in quarantine is back in
service before the nodes are asked. What nothing needs, the sweep puts there again.

The checksums of shards are taken from the nodes that hold them: in the end a scrub is asked for,
which holds all segments against their ids.
"""

import asyncio
import logging
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Iterable, Mapping
from dataclasses import dataclass, replace
from itertools import filterfalse

from common.bundle import parts_of
from common.errors import Corrupt, NotFound, SixfoldError
from common.hashing import blake3_digest
from common.ids import ContentId, SegmentId
from common.segment_list import SegmentList
from common.shards import Encoding, ShardInfo
from coordinator.cluster import Cluster
from coordinator.config import ALL_SHARDS, DATA_SHARDS
from coordinator.lookalikes import restore_if_true
from coordinator.metadata import Bundled, Metadata, StoredSegment
from coordinator.metadata.notices import survivors_of
from coordinator.metadata.restoring import Begun, Found
from coordinator.metadata.rows import (
    GENERATION_COUNTER_BITS,
    MAX_SESSION,
    NO_NODE,
    UNKNOWN_CHECKSUM,
)
from coordinator.node import NodeState
from coordinator.orphans import take_back
from coordinator.read_path import ReadPath
from coordinator.wanted import SCRUB, want_pass

log = logging.getLogger(__name__)

BATCH = 500


@dataclass(slots=True)
class RebuildReport:
    """`away` counts nodes that could not be asked: when they are back it should be run again.
    `unreadable` counts segments of which fewer than k shards were found, `strange` records that
    this store has not written: they are passed over."""

    nodes: int = 0
    away: int = 0
    shards: int = 0
    segments: int = 0
    contents: int = 0
    unreadable: int = 0
    broken_lists: int = 0
    broken_bundles: int = 0
    strange: int = 0


class Rebuild:
    """One run, which may be repeated. It adds what the database does not know, and replaces what
    cannot be read by what can."""

    def __init__(self, metadata: Metadata, cluster: Cluster, reads: ReadPath) -> None:
        self._metadata, self._cluster, self._reads = metadata, cluster, reads
        self._lists: list[StoredSegment] = []
        self._bundles: list[StoredSegment] = []
        self._batch: list[Found] = []
        self._begun = Begun("", 0)
        self._orphans = set[tuple[SegmentId, int]]()  # acts of writing that were in quarantine
        self.report = RebuildReport()

    async def run(self) -> RebuildReport:
        """Raises NodeUnreachable if a node fails while it lists: half of it would be a lie.
        Conflict if deletes were allowed meanwhile, or another process is at it."""
        self._begun = await self._metadata.begin_rebuild()
        try:
            return await self._run()
        finally:
            await self._metadata.resume_deletes(self._begun.reason)

    async def _run(self) -> RebuildReport:
        members = self._cluster.membership
        nodes = sorted(filter(members.is_readable, members.nodes))
        self.report.nodes = len(nodes)
        self.report.away = sum(
            not members.is_readable(number) and members.state(node) is not NodeState.REMOVED
            for number, node in members.nodes.items()
        )
        self._orphans = await take_back(self._metadata, self._cluster, nodes)
        group: list[tuple[ShardInfo, int]] = []
        doomed = await self._metadata.writes_in_outbox()
        async for info, node in self._all_shards(nodes):
            self.report.shards += 1
            if (info.address.segment, info.address.generation) in doomed:
                continue  # it is known, or deleted: not to be referred to anew
            if not is_ours(info):
                log.error("node %d has a strange record: %s", node, info)
                self.report.strange += 1
                continue
            if group and group[0][0].address.segment != info.address.segment:
                await self._segment_found(group)
                group = []
            group.append((info, node))
        if group:
            await self._segment_found(group)
        await self._flush()
        for segment in filter(is_list, self._lists):
            await self._restore_list(segment)
        for segment in self._bundles:
            await self._restore_bundle(segment)
        await self._take_alone()
        self.report.contents += await self._metadata.restore_single_contents()
        await want_pass(self._metadata, SCRUB)
        for segment in filterfalse(is_list, self._lists):
            restored = await restore_if_true(self._metadata, self._reads, segment)
            self.report.contents += restored
        if not self.report.away:
            await self._metadata.end_rebuild(self._begun)
        return self.report

    async def _all_shards(self, nodes: list[int]) -> AsyncIterator[tuple[ShardInfo, int]]:
        """The listings of all nodes merged: in order of address, one item of each in memory."""
        listings = {node: self._cluster.store(node).list() for node in nodes}
        first = await asyncio.gather(*(anext(listings[node], None) for node in nodes))
        heads = {node: info for node, info in zip(nodes, first, strict=True) if info is not None}
        while heads:
            node = min(heads, key=lambda number: heads[number].address)
            yield heads[node], node
            following = await anext(listings[node], None)
            if following is None:
                del heads[node]
            else:
                heads[node] = following

    async def _segment_found(self, group: list[tuple[ShardInfo, int]]) -> None:
        writes = [write for write in writes_from_shards(group) if not self._is_scrap(write)]
        if not writes:
            return
        segment, *others = writes
        survivors = survivors_of(segment.layout)
        self.report.segments += 1
        if survivors < segment.k:
            log.error("segment %s: %d of its shards were found", segment.id, survivors)
            self.report.unreadable += 1
        if segment.encoding & Encoding.BUNDLE:
            self._bundles.append(segment)
        elif may_be_list(segment):
            self._lists.append(segment)
        held = Counter(address.generation for address in {info.address for info, _ in group})
        self._batch.append(Found(segment, held, others=others))
        if len(self._batch) >= BATCH:
            await self._flush()

    def _is_scrap(self, write: StoredSegment) -> bool:
        """What was taken for orphans before and gives nothing now, as the shards of a node that
        came back old: not worth a row that says that it is lost."""
        is_orphan = (write.id, write.generation) in self._orphans
        return is_orphan and survivors_of(write.layout) < write.k

    async def _flush(self) -> None:
        batch, self._batch = self._batch, []
        for found, known in await self._metadata.restore_segments(batch, self._begun.reason):
            if not await self._reads.has(known) and await self._reads.has(found.segment):
                found = replace(found, unreadable=known.generation)
                await self._metadata.restore_segments([found], self._begun.reason)

    async def _restore_list(self, segment: StoredSegment) -> None:
        try:
            listed = SegmentList.unpack(await self._reads.read_segment(segment))
        except SixfoldError as error:
            log.error("segment list %s: %s", segment.id, error)
            self.report.broken_lists += 1
            return
        lost = await self._is_another_cut_lost(listed)
        restored = await self._metadata.restore_content(listed, segment.id, lost)
        self.report.contents += restored

    async def _is_another_cut_lost(self, listed: SegmentList) -> bool:
        """Whether the content is known to be cut otherwise, and cannot be read so, but as listed:
        a backup names a cut that was replaced since. If both can, the one that is known stands."""
        known, ids = await self._metadata.find_content(listed.content), listed.ids()
        if known is None or [segment.id for segment in known.segments] == ids:
            return False
        return await self._is_lost(listed.content) and await self._have_all(ids)

    async def _have_all(self, ids: Iterable[SegmentId]) -> bool:
        """Whether all these segments can be read."""
        for id_ in dict.fromkeys(ids):
            known = await self._metadata.find_segment(id_)
            if known is None or not await self._reads.has(known.stored):
                return False
        return True

    async def _restore_bundle(self, segment: StoredSegment) -> None:
        """Its contents, unless the database knows which of them are needed."""
        rebundling = self._metadata.rebundling
        if await rebundling.is_known(segment.id):
            return
        try:
            bundle = await self._reads.read_segment(segment)
            if blake3_digest(bundle) != segment.id:
                raise Corrupt("its bytes are not those of its id")
            places = parts_of(bundle)
        except SixfoldError as error:
            log.error("bundle %s: %s", segment.id, error)
            self.report.broken_bundles += 1
            return
        parts = [
            Bundled(
                ContentId(blake3_digest(bundle[part.start : part.end])), part.start, part.size_bytes
            )
            for part in places
        ]
        lost = {part.id for part in parts if await self._is_lost(part.id)}
        self.report.contents += await rebundling.restore_parts(segment, parts, lost)

    async def _take_alone(self) -> None:
        """A backup may name the bundle that a content was in, or the segments that it was cut into,
        before it was stored alone."""
        for id_ in await self._metadata.rebundling.cut_and_alone():
            if await self._is_lost(id_) and await self._have_all([SegmentId(id_)]):
                await self._metadata.rebundling.take_alone(id_)

    async def _is_lost(self, id_: ContentId) -> bool:
        """Whether it is known to be somewhere, and cannot be read there."""
        try:
            await self._reads.check(await self._reads.find(id_))
        except NotFound:
            return False
        except SixfoldError:
            return True
        return False


def is_ours(info: ShardInfo) -> bool:
    """Whether this store can have written such a shard. What lies behind a hole of a volume may be
    anything, and a row of the database that nobody can work with would stop the jobs."""
    address, shard_bytes = info.address, -(-info.segment_bytes // DATA_SHARDS)
    return (
        (info.k, info.n, info.payload_bytes) == (DATA_SHARDS, ALL_SHARDS, shard_bytes)
        and address.index < ALL_SHARDS
        and address.generation >> GENERATION_COUNTER_BITS < MAX_SESSION
        and info.encoding in (Encoding.PLAIN, Encoding.SEGMENT_LIST, Encoding.BUNDLE)
    )


def is_list(segment: StoredSegment) -> bool:
    """Whether it was stored as a segment list: only we do that."""
    return bool(segment.encoding & Encoding.SEGMENT_LIST)


def may_be_list(segment: StoredSegment) -> bool:
    """Also one that was stored as a content before: who stores such bytes must not be able to take
    another content away from a rebuild. Nor to give it other bytes: see `lookalikes`."""
    return is_list(segment) or SegmentList.may_have(segment.size_bytes)


def writes_from_shards(group: Iterable[tuple[ShardInfo, int]]) -> list[StoredSegment]:
    """The acts of writing a segment that these shards, each with its node, are of: the one with
    most shards first, of equal ones the youngest."""
    generations: defaultdict[int, dict[int, tuple[ShardInfo, int]]] = defaultdict(dict)
    for info, node in group:
        generations[info.address.generation][info.address.index] = (info, node)
    best_first = sorted(generations.items(), key=lambda each: (-len(each[1]), -each[0]))
    return [_segment_of(shards) for _, shards in best_first]


def _segment_of(shards: Mapping[int, tuple[ShardInfo, int]]) -> StoredSegment:
    """Of one act of writing it."""
    info = next(iter(shards.values()))[0]
    nothing = (None, NO_NODE)
    places = [shards.get(index, nothing) for index in range(info.n)]
    checksums = b"".join(s.checksum if s else UNKNOWN_CHECKSUM for s, _ in places)
    return StoredSegment(
        info.address.segment,
        info.segment_bytes,
        info.encoding,
        info.k,
        info.n,
        info.address.generation,
        tuple(node for _, node in places),
        checksums,
    )

"""Where every shard of a content is, what its node says of it now, and what may still fail."""

import asyncio
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from common.errors import NotFound, SixfoldError
from common.ids import ContentId, ShardAddress
from common.shards import ShardMissing
from coordinator.cluster import Cluster
from coordinator.metadata import Metadata, StoredSegment
from coordinator.metadata.explaining import CaredSegment, PendingDelete
from coordinator.metadata.rows import NO_NODE
from coordinator.placement import survives

SEGMENTS_AT_ONCE = 64
ASKED_AT_ONCE = 8  # of each node
DEADLINE_S = 5.0

PRESENT, MISSING, UNREACHABLE, NEVER_STORED = "present", "missing", "unreachable", "never stored"
BAD = "bad"


@dataclass(frozen=True, slots=True)
class Seen:
    """What a node said of one shard. `verified_at_s` is when the node itself last read it and
    found it good, None if it does not know."""

    state: str
    why: str = ""
    verified_at_s: int | None = None


class Explain:
    """Answers for one coordinator process."""

    def __init__(self, metadata: Metadata, cluster: Cluster, deadline_s: float = DEADLINE_S):
        self._metadata, self._cluster = metadata, cluster
        self._deadline_s = deadline_s

    async def run(self, content: ContentId, first: int, limit: int) -> dict[str, Any]:
        """As JSON, with `limit` segments at most from the `first` on. Raises NotFound."""
        found = await self._metadata.explained(content, first, min(limit, SEGMENTS_AT_ONCE))
        if found is None:
            raise NotFound(f"no such content: {content}")
        seen = await self._ask_all(s.stored for s in found.segments)
        segments = [self._segment(cared, seen) for cared in found.segments]
        next_ = first + len(segments)
        return {
            "id": str(content),
            "state": found.state.value,
            "segment_count": found.segment_count,
            "next": next_ if next_ < found.segment_count and segments else None,
            "segments": segments,
            "being_deleted": [self._pending(row) for row in found.pending],
        }

    async def _ask_all(self, segments: Iterable[StoredSegment]) -> dict[ShardAddress, Seen]:
        """All nodes at once, each for a few shards at a time, none longer than the deadline."""
        by_node: dict[int, list[ShardAddress]] = {}
        for segment in segments:
            for index, node in enumerate(segment.layout):
                by_node.setdefault(node, []).append(segment.address(index))
        by_node.pop(NO_NODE, None)
        seen: dict[ShardAddress, Seen] = {}
        await asyncio.gather(*(self._ask_node(*item, seen) for item in by_node.items()))
        return seen

    async def _ask_node(
        self, node: int, addresses: Sequence[ShardAddress], seen: dict[ShardAddress, Seen]
    ) -> None:
        waiting = iter(addresses)

        async def ask_some() -> None:
            for address in waiting:
                seen[address] = await self._ask(node, address)

        try:
            async with asyncio.timeout(self._deadline_s), asyncio.TaskGroup() as group:
                for _ in range(ASKED_AT_ONCE):
                    group.create_task(ask_some())
        except TimeoutError:
            for address in addresses:
                seen.setdefault(address, Seen(UNREACHABLE, "no answer in time"))

    async def _ask(self, node: int, address: ShardAddress) -> Seen:
        try:
            said = await self._cluster.store(node).head(address)
        except SixfoldError as error:
            return Seen(UNREACHABLE, str(error))
        if isinstance(said, ShardMissing):
            return Seen(MISSING, "the node says that it has no such shard")
        return Seen(PRESENT, verified_at_s=said.verified_at_s)

    def _segment(self, cared: CaredSegment, seen: dict[ShardAddress, Seen]) -> dict[str, Any]:
        segment = cared.stored
        shards = [self._shard(segment, index, seen) for index in range(segment.n)]
        there = tuple(s["node"] if self._stays(s) else NO_NODE for s in shards)
        return {
            "position": cared.position,
            "id": str(segment.id),
            "bundle": cared.part is not None,
            "generation": f"{segment.generation:016x}",
            "size_bytes": segment.size_bytes,
            "k": segment.k,
            "n": segment.n,
            "verified_at_s": cared.verified_at_s or None,
            "repair": asdict(cared.queued) if cared.queued else None,
            "shards": shards,
            "may_fail": self._may_fail(there, segment.k),
        }

    def _shard(
        self, segment: StoredSegment, index: int, seen: dict[ShardAddress, Seen]
    ) -> dict[str, Any]:
        number = segment.layout[index]
        node = self._cluster.membership.nodes.get(number)
        said = Seen(NEVER_STORED) if number == NO_NODE else seen[segment.address(index)]
        if said.state == PRESENT and segment.known_bad >> index & 1:
            said = replace(said, state=BAD, why="it was found so, and waits for repair")
        return {
            "index": index,
            "node": number,
            "name": self._cluster.node_name(number) if number else None,
            "zone": node.row.zone if node else None,
            "node_state": self._cluster.membership.state(node).value if node else None,
            **asdict(said),
        }

    def _stays(self, shard: dict[str, Any]) -> bool:
        """Whether it is there, and will be when its node has been restarted."""
        lasting = self._cluster.membership.is_lasting
        return shard["state"] == PRESENT and lasting(shard["node"])

    def _may_fail(self, there: tuple[int, ...], k: int) -> dict[str, Any]:
        """How many of which nodes and zones, so that k shards are still there."""
        nodes = self._cluster.membership.nodes
        zone_of = {n: nodes[n].row.zone for n in set(there) - {NO_NODE} if n in nodes}
        zones = sorted(set(zone_of.values()))
        numbers = {zone: at for at, zone in enumerate(zones, 1)}
        by_zone = tuple(numbers[zone_of[n]] if n in zone_of else NO_NODE for n in there)
        return {
            "nodes": survives(there, k),
            "of_nodes": [self._cluster.node_name(n) for n in sorted(set(there) - {NO_NODE})],
            "zones": survives(by_zone, k),
            "of_zones": zones,
        }

    def _pending(self, row: PendingDelete) -> dict[str, Any]:
        return {
            "node": row.node,
            "name": self._cluster.node_name(row.node),
            "generation": f"{row.generation:016x}",
            "indexes": list(row.indexes),
            "due_in_s": row.due_in_s,
        }

"""Looks for shards elsewhere than where the layout says.

Layouts change as shards are moved. A database that was restored from a backup names the places of
then: every shard may be there, under the same address, but on other nodes. So before a segment is
given up, all nodes are asked.
"""

import asyncio
from collections.abc import Iterable, Sequence

from common.errors import SixfoldError
from common.shards import ShardRecord
from coordinator.metadata import StoredSegment
from coordinator.proof import is_right
from coordinator.services import Services

NODES_AT_ONCE = 32


async def find_strays(
    services: Services, stored: StoredSegment, lacking: Iterable[int]
) -> dict[int, int]:
    """For each of the `lacking` shards that is on another node than the layout says, byte for
    byte, that node's number. A node that does not answer has none, as far as we know."""
    members, found = services.cluster.membership, dict[int, int]()
    readable = [number for number in members.nodes if members.is_readable(number)]
    for at in range(0, len(readable), NODES_AT_ONCE):
        nodes = readable[at : at + NODES_AT_ONCE]
        wanted = [index for index in lacking if index not in found]
        asked = [_on(services, stored, node, wanted) for node in nodes]
        for node, indexes in zip(nodes, await asyncio.gather(*asked), strict=True):
            found.update((index, node) for index in indexes)
    return found


async def _on(
    services: Services, stored: StoredSegment, node: int, wanted: Sequence[int]
) -> list[int]:
    """Those of the wanted shards that this node has, and that no layout names there."""
    indexes = [index for index in wanted if stored.layout[index] != node]
    try:
        answers = await services.cluster.store(node).read(list(map(stored.address, indexes)))
    except SixfoldError:
        return []
    pairs = zip(indexes, answers, strict=True)
    return [
        index
        for index, answer in pairs
        if isinstance(answer, ShardRecord) and await is_right(services, stored, index, answer)
    ]

"""Shards of which no checksum is known, since no node had them when the metadata was rebuilt.

What a node has under such an address may be the shard. That is proved by the bytes of the segment,
which must hash to its id: they are computed with it.
"""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from common.errors import SixfoldError
from common.hashing import blake3_digest
from common.shards import ShardRecord
from coordinator.metadata import StoredSegment
from coordinator.metadata.rows import CHECKSUM_BYTES, UNKNOWN_CHECKSUM, Places
from coordinator.services import Services
from coordinator.strays import NODES_AT_ONCE
from coordinator.survey import Survey


@dataclass(frozen=True, slots=True)
class Proven:
    """`segment` is as it was, but with the checksums of the shards that lie on the nodes `places`
    too."""

    segment: StoredSegment
    places: Mapping[int, int]


async def find_proven(
    services: Services, stored: StoredSegment, survey: Survey, stripe: memoryview, but: Places
) -> Proven | None:
    """Look for such shards on all nodes, except in the places `but`. None unless the segment can be
    read with them, and has its id. The stripe is overwritten."""
    found = await _find(services, stored, but)
    if not found or len(survey.good) + len(found) < stored.k:
        return None
    changed = _with(stored, found)
    again = Survey(services, changed, stripe)
    await again.run()
    if len(again.good) < stored.k or not (await again.parity_agrees() and await again.has_id()):
        return None
    good = {index: found[index] for index in found if index in again.good}
    places = {index: node for index, (node, _) in good.items()}
    return Proven(replace(_with(stored, good), layout=stored.layout), places)


def _with(stored: StoredSegment, found: Mapping[int, tuple[int, bytes]]) -> StoredSegment:
    layout, checksums = list(stored.layout), bytearray(stored.checksums)
    for index, (node, checksum) in found.items():
        layout[index] = node
        checksums[index * CHECKSUM_BYTES : (index + 1) * CHECKSUM_BYTES] = checksum
    return replace(stored, layout=tuple(layout), checksums=bytes(checksums))


async def _find(
    services: Services, stored: StoredSegment, but: Places
) -> dict[int, tuple[int, bytes]]:
    """Of the shards without a checksum: on which node one is, and the checksum of that."""
    wanted = [i for i in range(stored.n) if stored.checksum(i) == UNKNOWN_CHECKSUM]
    members, found = services.cluster.membership, dict[int, tuple[int, bytes]]()
    readable = [number for number in members.nodes if members.is_readable(number)] if wanted else []
    for at in range(0, len(readable), NODES_AT_ONCE):
        nodes = readable[at : at + NODES_AT_ONCE]
        asked = [_on(services, stored, node, wanted, but) for node in nodes]
        for shards in await asyncio.gather(*asked):
            found.update(shards)
    return found


async def _on(
    services: Services, stored: StoredSegment, node: int, wanted: Sequence[int], but: Places
) -> dict[int, tuple[int, bytes]]:
    indexes = [index for index in wanted if (index, node) not in but]
    try:
        answers = await services.cluster.store(node).read(list(map(stored.address, indexes)))
    except SixfoldError:
        return {}
    return {
        index: (node, blake3_digest(answer.payload))
        for index, answer in zip(indexes, answers, strict=True)
        if isinstance(answer, ShardRecord) and len(answer.payload) == stored.shard_bytes
    }

"""Whether a segment can be read: not by what is known of its shards, but by reading them.

Bytes that are stored already are not written again. While nearly all nodes are there, several
shards would have to have rotted unseen for that to be a loss; while several nodes are away, one is
enough. And what only a backup of the database says may all be gone: then every shard is read, since
the answer to the upload tells how many there are.
"""

from collections.abc import Sequence
from dataclasses import replace

from common.errors import Corrupt, SixfoldError
from common.hashing import blake3_digest
from common.shards import ShardMissing, ShardRecord
from coordinator.metadata import KnownSegment, RepairNotice, StoredSegment
from coordinator.metadata.packing import mask_of
from coordinator.metadata.rows import NO_NODE, Places
from coordinator.services import Services

MISSED_AT_MOST = 1  # shards; with more of them away, the rest is read


async def proven(
    services: Services, known: KnownSegment, present: Sequence[int]
) -> StoredSegment | None:
    """The segment, with what turns out to be bad, which goes into the repair queue too; None if it
    cannot be read. `present` is the layout without what cannot be had."""
    stored = known.stored
    there = [index for index, node in enumerate(present) if node != NO_NODE]
    if len(there) < stored.k:
        return None
    if len(there) >= stored.n - MISSED_AT_MOST and not known.doubtful:
        return stored
    async with services.proofs:
        enough = stored.n if known.doubtful else stored.k
        return await _read_until_enough(services, stored, there, enough)


async def _read_until_enough(
    services: Services, stored: StoredSegment, there: Sequence[int], enough: int
) -> StoredSegment | None:
    """One after the other: of a large upload many segments may be looked at, and memory is dear."""
    good, bad = 0, list[int]()
    for index in there:
        state = await _is_good(services, stored, index)
        good += state is True
        if state is False:
            bad.append(index)
        if good == enough:
            break
    if bad:
        places = Places((index, stored.layout[index]) for index in bad)
        reason = f"shard {bad[0]} is gone or rotten"
        notice = RepairNotice(stored.id, stored.generation, reason, places)
        await services.metadata.queue_repair(notice)
    found = replace(stored, known_bad=stored.known_bad | mask_of(bad))
    return found if good >= stored.k else None


async def _is_good(services: Services, stored: StoredSegment, index: int) -> bool | None:
    """None if it cannot be reached."""
    try:
        store = services.cluster.store(stored.layout[index])
        (answer,) = await store.read([stored.address(index)])
    except Corrupt:
        return False
    except SixfoldError:
        return None
    if isinstance(answer, ShardMissing):
        return False
    return await is_right(services, stored, index, answer)


async def is_right(
    services: Services, stored: StoredSegment, index: int, answer: ShardRecord
) -> bool:
    """Whether these are the bytes of that shard, whatever its node says of them."""

    def digest() -> bytes:
        return blake3_digest(answer.payload)

    found = await services.offload.run(len(answer.payload), digest)
    return found == stored.checksum(index)

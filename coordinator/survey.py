"""Looks at all n shards of a segment: which are good, which are not, and which nobody can tell."""

import asyncio
from enum import StrEnum

from common.errors import Corrupt, SixfoldError
from common.hashing import blake3_digest
from common.shards import ShardMissing, ShardRecord
from coordinator.metadata import StoredSegment
from coordinator.metadata.rows import CHECKSUM_BYTES, NO_NODE, UNKNOWN_CHECKSUM
from coordinator.services import Services


class ShardState(StrEnum):
    """What is known of one shard. An error is never an absence: UNREACHABLE says nothing of it."""

    GOOD = "good"
    BAD = "bad"  # there, but not these bytes
    MISSING = "missing"  # its node says that it has none
    UNREACHABLE = "unreachable"
    LOST = "lost"  # with its node, for good
    ABSENT = "absent"  # never confirmed by any node


class Survey:
    """Reads the shards of `segment` into the rows of `stripe`, n times shard_bytes, and verifies
    each against the metadata. `run` it once; then `states` has one entry for each shard, and the
    rows of the good ones are filled."""

    def __init__(self, services: Services, segment: StoredSegment, stripe: memoryview) -> None:
        self._services, self._segment, self._stripe = services, segment, stripe
        self._rows = services.codec.split(stripe, segment.shard_bytes)
        self.states: list[ShardState] = [ShardState.UNREACHABLE] * segment.n
        self.reasons: dict[int, str] = {}
        self.checksums = bytearray(segment.checksums)

    async def run(self) -> None:
        await asyncio.gather(*map(self._look, range(self._segment.n)))

    @property
    def good(self) -> list[int]:
        return self.having(ShardState.GOOD)

    def having(self, *states: ShardState) -> list[int]:
        """The indexes of the shards in one of these states."""
        return [index for index, state in enumerate(self.states) if state in states]

    async def _look(self, index: int) -> None:
        node = self._segment.layout[index]
        if node == NO_NODE:
            self.states[index] = ShardState.ABSENT
        elif self._services.cluster.membership.is_gone(node):
            self.states[index] = ShardState.LOST
        else:
            self.states[index] = await self._read(index, node)

    async def _read(self, index: int, node: int) -> ShardState:
        address, row = self._segment.address(index), self._rows[index]
        try:
            (answer,) = await self._services.cluster.store(node).read([address], [row])
        except Corrupt as error:
            self.reasons[index] = str(error)
            return ShardState.BAD
        except SixfoldError as error:
            self.reasons[index] = str(error)
            return ShardState.UNREACHABLE
        if isinstance(answer, ShardMissing):
            return ShardState.MISSING
        return ShardState.GOOD if await self._is_right(index, answer) else ShardState.BAD

    async def _is_right(self, index: int, answer: ShardRecord) -> bool:
        row = self._rows[index]
        if len(answer.payload) != len(row):
            return False
        if answer.payload is not row:
            row[:] = answer.payload
        digest = await self._services.offload.run(len(row), lambda: blake3_digest(row))
        return digest == self._segment.checksum(index)

    async def rebuild(self, missing: list[int]) -> bool:
        """Compute the rows `missing` from k of the good ones, which there must be. False if what
        comes out is not what the metadata says.

        Of shards that no node had when the metadata was rebuilt, no checksum is known: then the
        whole segment must have its id, and `checksums` has theirs from now on.
        """
        segment, good = self._segment, self.good
        proved_by_id = any(segment.checksum(row) == UNKNOWN_CHECKSUM for row in missing)
        data = set(range(segment.k)) - set(good) if proved_by_id else set[int]()
        rows = sorted(data.union(missing))

        def work() -> bool:
            codec = self._services.codec
            codec.recover_in_place(self._stripe, segment.size_bytes, good[: segment.k], rows)
            return self._is_proved(rows, proved_by_id)

        return await self._services.offload.run(len(self._stripe), work)

    def _is_proved(self, rebuilt: list[int], by_id: bool) -> bool:
        segment = self._segment
        for index in rebuilt:
            digest = blake3_digest(self._rows[index])
            if segment.checksum(index) == UNKNOWN_CHECKSUM:
                at = index * CHECKSUM_BYTES
                self.checksums[at : at + CHECKSUM_BYTES] = digest
            elif digest != segment.checksum(index):
                return False
        return not by_id or blake3_digest(self._stripe[: segment.size_bytes]) == segment.id

    async def has_id(self) -> bool:
        """Whether the plain bytes hash to the segment's id; they are in front in the stripe then.
        There must be k good shards."""
        segment, good = self._segment, self.good
        if lacking := [row for row in range(segment.k) if row not in good]:
            await self.rebuild(lacking)
        plain = self._stripe[: segment.size_bytes]
        digest = await self._services.offload.run(len(plain), lambda: blake3_digest(plain))
        return digest == segment.id

    async def parity_agrees(self) -> bool:
        """Whether the good shards, k or more, belong together: each beyond the first k, computed
        from those, is what its checksum says."""
        return await self.rebuild(self.good[self._segment.k :])

"""Holds whole stripes against what the metadata says of them: every shard, the parity, the plain
bytes. Reads skip what they do not need; a check skips nothing."""

import logging
from dataclasses import dataclass
from functools import partial

from blake3 import blake3

from common.bundle import Part
from coordinator.metadata import RepairNotice, StoredSegment
from coordinator.services import Services
from coordinator.survey import ShardState, Survey

log = logging.getLogger(__name__)

BUFFER_WAIT_S = 30.0
_NEEDS_REPAIR = (ShardState.BAD, ShardState.MISSING, ShardState.LOST, ShardState.ABSENT)


@dataclass(frozen=True, slots=True)
class Finding:
    """How a segment stands. `disagrees` says what does not fit together although every shard
    matches its checksum; empty if all does, or if fewer than k shards are good."""

    segment: StoredSegment
    states: tuple[ShardState, ...]
    disagrees: str = ""

    @property
    def good(self) -> int:
        return self.states.count(ShardState.GOOD)

    @property
    def is_readable(self) -> bool:
        return self.good >= self.segment.k and not self.disagrees

    @property
    def is_whole(self) -> bool:
        return self.good == self.segment.n and not self.disagrees

    @property
    def to_repair(self) -> list[int]:
        """The shards that are known not to be as they should. Of one that cannot be reached
        nothing is known."""
        return [index for index, state in enumerate(self.states) if state in _NEEDS_REPAIR]

    @property
    def notice(self) -> RepairNotice:
        """If shards do not fit together, nobody knows which are right: none counts."""
        segment, to_repair = self.segment, set(self.to_repair)
        gone = {i for i in to_repair if self.states[i] in (ShardState.LOST, ShardState.ABSENT)}
        bad = range(segment.n) if self.disagrees else to_repair - gone
        return RepairNotice(
            segment.id, segment.generation, self.trouble, segment.places(bad), segment.places(gone)
        )

    @property
    def trouble(self) -> str:
        """In words, empty if the stripe is whole."""
        shards = [f"shard {i} {s}" for i, s in enumerate(self.states) if s is not ShardState.GOOD]
        return "; ".join(
            [*([", ".join(shards)] if shards else []), *filter(None, [self.disagrees])]
        )


class StripeCheck:
    """Checks stripes. One for the process."""

    def __init__(self, services: Services) -> None:
        self._services = services

    async def check(
        self,
        segment: StoredSegment,
        content_hash: blake3 | None = None,
        part: Part | None = None,
    ) -> Finding:
        """Read all shards of the segment; `content_hash` takes its plain bytes, if they can be had,
        or this part of them. What is found goes into the database: what needs repair, or that all
        is well.

        Raises Overloaded if there is no memory for it, and what the database raises.
        """
        services, size_bytes = self._services, segment.n * segment.shard_bytes
        with await services.buffers.acquire_behind(size_bytes, BUFFER_WAIT_S) as buffer:
            stripe = buffer.memory[:size_bytes]
            survey, segment = await self._survey(segment, stripe)
            disagrees = ""
            if len(survey.good) >= segment.k:
                plain = stripe[: segment.size_bytes]
                disagrees = await self._disagreement(survey)
                if content_hash is not None:
                    of_content = plain[part.start : part.end] if part else plain
                    update = partial(content_hash.update, of_content)
                    await services.offload.run(len(of_content), update)
        finding = Finding(segment, tuple(survey.states), disagrees)
        await self._note(finding)
        return finding

    async def _survey(
        self, segment: StoredSegment, stripe: memoryview
    ) -> tuple[Survey, StoredSegment]:
        """Of the segment where it lies now: shards are moved meanwhile."""
        while True:
            survey = Survey(self._services, segment, stripe)
            await survey.run()
            whole = len(survey.good) == segment.n
            now = None if whole else await self._services.metadata.moved(segment)
            if now is None:
                return survey, segment
            segment = now

    @staticmethod
    async def _disagreement(survey: Survey) -> str:
        """What does not fit together, although enough shards match their checksums."""
        if not await survey.parity_agrees():
            return "the shards do not belong together"
        if not await survey.has_id():
            return "the plain bytes do not hash to the segment's id"
        return ""

    async def _note(self, finding: Finding) -> None:
        segment, metadata = finding.segment, self._services.metadata
        if finding.is_whole:
            await metadata.set_verified([segment])
        elif finding.to_repair or finding.disagrees:
            log.warning("segment %s: %s", segment.id, finding.trouble)
            await metadata.queue_repair(finding.notice)

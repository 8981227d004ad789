"""Verifies one content whole: every shard of every segment, and that its bytes hash to its id."""

from typing import Any

from blake3 import blake3

from common.errors import NotFound
from common.ids import ContentId
from coordinator.check import Finding, StripeCheck
from coordinator.metadata.explaining import CaredSegment, ContentState, Explained
from coordinator.services import Services

SEGMENTS_AT_ONCE = 64  # looked up


class Verify:
    """Answers for one coordinator process."""

    def __init__(self, services: Services) -> None:
        self._services, self._check = services, StripeCheck(services)

    async def run(self, content: ContentId) -> dict[str, Any]:
        """As JSON: what is bad, also of a content that is deleted while its segments are there.
        That is in the repair queue afterwards, and what is whole has a new time of verification.
        Raises NotFound, Overloaded."""
        content_hash, readable, state = blake3(), True, ContentState.LIVE
        troubles, segments, shards = list[dict[str, Any]](), 0, 0
        while part := await self._segments(content, segments):
            state = part.state
            for cared in part.segments:
                in_content = cared.position is not None
                found = await self._check.check(
                    cared.stored, content_hash if in_content and readable else None, cared.part
                )
                readable = readable and (found.is_readable or not in_content)
                segments, shards = segments + 1, shards + found.segment.n
                if not found.is_whole:
                    troubles.append(self._described(cared, found))
        id_is_right = content_hash.digest() == content if readable else None
        return {
            "id": str(content),
            "state": state.value,
            "whole": not troubles and id_is_right is True,
            "id_is_right": id_is_right,
            "segments": segments,
            "shards": shards,
            "bad": troubles,
        }

    async def _segments(self, content: ContentId, first: int) -> Explained | None:
        """The next of them, None behind the last."""
        found = await self._services.metadata.explained(content, first, SEGMENTS_AT_ONCE)
        if found is None or not found.segment_count:
            raise NotFound(f"no such content: {content}")
        return found if found.segments else None

    def _described(self, cared: CaredSegment, found: Finding) -> dict[str, Any]:
        segment, cluster = found.segment, self._services.cluster
        return {
            "position": cared.position,
            "id": str(segment.id),
            "good": found.good,
            "n": segment.n,
            "disagrees": found.disagrees,
            "queued": bool(found.to_repair or found.disagrees),
            "shards": [
                {"index": index, "state": state.value, "name": cluster.node_name(node)}
                for index, (state, node) in enumerate(
                    zip(found.states, segment.layout, strict=True)
                )
                if state.value != "good"
            ],
        }

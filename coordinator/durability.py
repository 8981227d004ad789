"""How safe a content is, as the answers to a PUT and a HEAD state it."""

from collections.abc import Iterable
from dataclasses import dataclass

from coordinator.metadata import StoredSegment
from coordinator.metadata.rows import NO_NODE
from coordinator.placement import survives


@dataclass(frozen=True, slots=True)
class Durability:
    """Of the worst segment: shards durable, shards wanted, nodes that may be lost."""

    shards: int
    wanted: int
    survives: int

    def __str__(self) -> str:
        return f"{self.shards}/{self.wanted}; survives={self.survives}"


def durability_of(segments: Iterable[StoredSegment]) -> Durability:
    """`segments` is not empty: empty content has one segment of no bytes."""
    each = (
        (survives(s.layout, s.k), len(s.layout) - s.layout.count(NO_NODE), s.n) for s in segments
    )
    tolerated, shards, wanted = min(each)
    return Durability(shards, wanted, tolerated)

"""How safe a content is, as the answers to a PUT and a HEAD state it."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import lru_cache

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


def durability_of(segments: Iterable[StoredSegment], is_there: Callable[[int], bool]) -> Durability:
    """As things are now: shards on nodes that are not there do not count. `segments` is not empty:
    empty content has one segment of no bytes."""
    present = (_of_layout(present_layout(s, is_there), s.k) for s in segments)
    return min(present, key=_safety)


def present_layout(segment: StoredSegment, is_there: Callable[[int], bool]) -> tuple[int, ...]:
    """The layout without the nodes that are not there, and without what is known to be bad."""
    present = tuple([node if is_there(node) else NO_NODE for node in segment.layout])
    return without(present, segment.known_bad) if segment.known_bad else present


def without(layout: tuple[int, ...], bad: int) -> tuple[int, ...]:
    """The layout without the shards of that mask."""
    return tuple([NO_NODE if bad >> index & 1 else node for index, node in enumerate(layout)])


def _safety(found: Durability) -> tuple[int, int]:
    return found.survives, found.shards


@lru_cache(4096)  # a cluster has few layouts beside its segments
def _of_layout(layout: tuple[int, ...], k: int) -> Durability:
    shards = len(layout) - layout.count(NO_NODE)
    return Durability(shards, len(layout), survives(layout, k))

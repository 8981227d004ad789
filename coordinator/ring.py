"""A consistent-hash ring with virtual nodes (Karger et al., 1997). Pure.

Each node owns points on the circle of 64-bit numbers, in proportion to its capacity; walking
from a segment's own point gives every node, in an order that hardly changes as nodes come and go.
"""

from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from math import log2
from statistics import fmean

from common.hashing import blake3_digest
from common.ids import SegmentId

VNODES = 64  # of a node with the typical capacity
MIN_VNODES, MAX_VNODES = 8, 1024


@dataclass(frozen=True, slots=True)
class RingNode:
    """`node_id` places the node's points, so they do not depend on its number or address."""

    number: int
    node_id: str
    capacity_bytes: int


class Ring:
    """Immutable: built anew when a node joins, leaves or changes its capacity class."""

    def __init__(self, nodes: Iterable[RingNode]) -> None:
        members = list(nodes)
        typical = typical_capacity(node.capacity_bytes for node in members)
        points = sorted(
            (_point(node.node_id, vnode), node.number)
            for node in members
            for vnode in range(vnode_count(node.capacity_bytes, typical))
        )
        self._points = [point for point, _ in points]
        self._owners: Sequence[int] = [number for _, number in points]
        self.size = len(members)

    def walk(self, segment: SegmentId) -> Iterator[int]:
        """Every node's number once, in ring order from the segment's point."""
        owners, seen = self._owners, set[int]()
        start = bisect_left(self._points, int.from_bytes(segment[:8], "big"))
        for at in range(start, start + len(owners)):
            number = owners[at % len(owners)]
            if number not in seen:
                seen.add(number)
                yield number
                if len(seen) == self.size:
                    return


def typical_capacity(capacities: Iterable[int]) -> int:
    """The power of two nearest to their geometric mean; 0 if all are 0.

    All vnodes are counted in it, so it should hardly ever change. A median jumps when the middle
    falls to another size of disk: with half the nodes of either size, one more moved 25 %. The
    small shift keeps disks of 2^i bytes, which are common, away from where it rounds.
    """
    logarithms = [log2(capacity) for capacity in capacities if capacity]
    return 2 ** round(fmean(logarithms) - 0.1) if logarithms else 0


def vnode_count(capacity_bytes: int, typical_bytes: int) -> int:
    """In proportion to capacity, in steps of one vnode, so that small changes move nothing."""
    share = capacity_bytes / typical_bytes if typical_bytes else 1.0
    return max(MIN_VNODES, min(MAX_VNODES, round(VNODES * share)))


def _point(node_id: str, vnode: int) -> int:
    return int.from_bytes(blake3_digest(f"{node_id}/{vnode}".encode())[:8], "big")

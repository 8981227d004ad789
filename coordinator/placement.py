"""Placement: which nodes get the shards of a segment. Pure functions.

Candidates come from the ring, in its order; of these the least filled are taken, so that fill
stays even, and zones are spread, so that losing a zone loses no segment. The nodes chosen take
their shards in ring order, which spreads the reading of data shards.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice

from common.ids import SegmentId
from coordinator.ring import Ring

CANDIDATES_PER_SHARD = 3


@dataclass(frozen=True, slots=True)
class Target:
    """A node that may take shards. `fill` is its used fraction, 0 to 1."""

    number: int
    zone: str
    fill: float


@dataclass(frozen=True, slots=True)
class Placement:
    """`layout[i]` is the node for shard i; `spares` the nodes to turn to, best first."""

    layout: tuple[int, ...]
    spares: tuple[int, ...]


def place(
    ring: Ring, targets: Mapping[int, Target], segment: SegmentId, k: int, n: int
) -> Placement:
    """At most one shard per node where there are n targets, evenly doubled up where there are
    fewer. `targets` is never empty."""
    available = (targets[number] for number in ring.walk(segment) if number in targets)
    candidates = list(islice(available, CANDIDATES_PER_SHARD * n))
    by_fill = sorted(candidates, key=lambda target: target.fill)  # stable: ties keep ring order
    chosen = _spread_over_zones(by_fill, min(n, len(by_fill)), n, n - k)
    shares = _shares(by_fill, chosen, n)
    layout: list[int] = []
    for turn in range(max(shares.values())):
        layout += [t.number for t in candidates if shares.get(t.number, 0) > turn]
    spares = tuple(t.number for t in by_fill if t.number not in chosen)
    return Placement(tuple(layout), spares)


def _spread_over_zones(
    by_fill: Sequence[Target], count: int, n: int, tolerated: int
) -> dict[int, Target]:
    """The `count` least filled targets such that no zone gets more than `tolerated` shards, or,
    if the zones do not allow that, as few more as possible."""
    zones = len({target.zone for target in by_fill})
    limit = max(1, min(tolerated, count), -(-n // zones) if zones * tolerated < n else 0)
    chosen: dict[int, Target] = {}
    in_zone: Counter[str] = Counter()
    while True:
        for target in by_fill:
            if target.number not in chosen and in_zone[target.zone] < limit:
                chosen[target.number] = target
                in_zone[target.zone] += 1
                if len(chosen) == count:
                    return chosen
        limit += 1


def _shares(by_fill: Sequence[Target], chosen: Mapping[int, Target], n: int) -> dict[int, int]:
    """How many shards each chosen node takes: equal, the remainder to the least filled."""
    each, rest = divmod(n, len(chosen))
    order = [target.number for target in by_fill if target.number in chosen]
    return {number: each + (at < rest) for at, number in enumerate(order)}


@lru_cache(4096)  # a cluster has few layouts beside its segments
def survives(layout: tuple[int, ...], k: int) -> int:
    """How many nodes of a layout, whichever, may be lost so that k shards are left; -1 if fewer
    than k shards are there now. Node 0 stands for a shard that is not."""
    per_node = sorted(Counter(node for node in layout if node).values(), reverse=True)
    left = sum(per_node)
    for lost, shards in enumerate(per_node):
        if left < k:
            return lost - 1
        left -= shards
    return len(per_node) - 1

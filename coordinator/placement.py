"""Placement: which nodes get the shards of a segment. Pure functions.

Candidates come from the ring, in its order; of these the least filled are taken, so that fill
stays even, and zones are spread, so that losing a zone loses no segment. The nodes chosen take
their shards in ring order, which spreads the reading of data shards.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
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


def candidates(
    ring: Ring,
    target: Callable[[int], Target | None],
    zone_sizes: Callable[[], Mapping[str, int]],
    segment: SegmentId,
    k: int,
    n: int,
) -> list[Target]:
    """The first 3 n targets in ring order, or all there are; and, where these crowd into few
    zones, as many from other zones as it takes to spread the shards over them.

    `target` judges a node, and only nodes that the walk comes to are judged. `zone_sizes`, how
    many targets each zone has, says when a search in other zones is over.
    """
    walk = (found for number in ring.walk(segment) if (found := target(number)) is not None)
    first = list(islice(walk, CANDIDATES_PER_SHARD * n))
    in_zone = Counter(found.zone for found in first)
    if len(first) < CANDIDATES_PER_SHARD * n or _takes(in_zone, n - k) >= n:
        return first
    limit = _zone_limit(zone_sizes(), k, n)
    missing = n - _takes(in_zone, limit)
    while missing > 0 and (other := next(walk, None)):
        if in_zone[other.zone] < limit:
            first.append(other)
            in_zone[other.zone] += 1
            missing -= 1
    return first


def _takes(zone_sizes: Mapping[str, int], limit: int) -> int:
    """How many shards go into these zones if each takes `limit` at most, one on each node."""
    return sum(min(size, limit) for size in zone_sizes.values())


def _zone_limit(zone_sizes: Mapping[str, int], k: int, n: int) -> int:
    """The most shards that a zone must take: n - k, so that losing it loses nothing, or more
    where the zones are too few or too small."""
    enough = min(n, sum(zone_sizes.values()))
    return next(limit for limit in range(n - k, n + 1) if _takes(zone_sizes, limit) >= enough)


def place(candidates: Sequence[Target], k: int, n: int) -> Placement:
    """At most one shard per node where there are n candidates, evenly doubled up where there are
    fewer. `candidates`, in ring order, are never empty."""
    by_fill = sorted(candidates, key=lambda target: target.fill)  # stable: ties keep ring order
    chosen = _spread_over_zones(by_fill, min(n, len(by_fill)), n, n - k)
    shares = _shares(by_fill, chosen, n, n - k)
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


def _shares(
    by_fill: Sequence[Target], chosen: Mapping[int, Target], n: int, limit: int
) -> dict[int, int]:
    """How many shards each chosen node takes: equal, the remainder to the least filled such that no
    zone gets more than `limit`, or, if the zones do not allow that, as few more as possible."""
    each, rest = divmod(n, len(chosen))
    shares = dict.fromkeys(chosen, each)
    in_zone = Counter(target.zone for target in chosen.values() for _ in range(each))
    while rest:
        for target in by_fill:
            if shares.get(target.number) == each and in_zone[target.zone] < limit and rest:
                shares[target.number] += 1
                in_zone[target.zone] += 1
                rest -= 1
        limit += 1
    return shares


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


def is_quorum(layout: Iterable[int], n: int, k: int) -> bool:
    """Whether these nodes, one per durable shard, make a segment durable enough."""
    nodes = tuple(layout)
    return len(nodes) >= n - 1 and survives(nodes, k) >= 1

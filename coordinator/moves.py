"""Which shards of a stripe lie badly, and where they should go. Pure functions.

A stripe lies well if no two shards share a node and no zone has more than n - k of them, as far as
the nodes that can take shards allow that.
"""

from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence

from coordinator.metadata.rows import NO_NODE
from coordinator.placement import Target

ZoneOf = Callable[[int], str]


def crowded(
    layout: Sequence[int], zone_of: ZoneOf, targets: Collection[Target], tolerated: int
) -> list[int]:
    """The indexes of shards that could lie better on one of `targets`: the second and further ones
    of a node, and those of a zone beyond `tolerated`, n - k."""
    free = [target for target in targets if target.number not in layout]
    in_zone = Counter(zone_of(node) for node in layout if node != NO_NODE)
    seen, found = set[int](), list[int]()
    for index, node in enumerate(layout):
        if node == NO_NODE:
            continue
        better = [t for t in free if _is_better(t, zone_of(node), in_zone, node in seen, tolerated)]
        if better:
            found.append(index)
            free.remove(better[0])
            in_zone[zone_of(node)] -= 1
            in_zone[better[0].zone] += 1
        seen.add(node)
    return found


def _is_better(
    target: Target, zone: str, in_zone: Mapping[str, int], is_second: bool, tolerated: int
) -> bool:
    """Whether a shard in `zone`, on a node that has another if `is_second`, had better go there."""
    there = in_zone.get(target.zone, 0) + (target.zone != zone)
    if is_second:
        return there <= max(tolerated, in_zone[zone])
    return in_zone[zone] > tolerated and target.zone != zone and there <= tolerated


def relief(
    layout: Sequence[int],
    movable: Collection[int],
    zone_of: ZoneOf,
    targets: Collection[Target],
    tolerated: int,
    forbidden: Collection[tuple[int, int]] = (),
) -> dict[int, int]:
    """A node for each index in `movable` that can lie elsewhere and no worse: on a node that has no
    shard of the stripe, in its own zone or in one with fewer than `tolerated`, n - k; of these on
    the least filled."""
    free = [target for target in targets if target.number not in layout]
    in_zone = Counter(zone_of(node) for node in layout if node != NO_NODE)
    found: dict[int, int] = {}
    for index in sorted(movable):
        zone = zone_of(layout[index])
        fitting = [
            target
            for target in free
            if (index, target.number) not in forbidden
            and (target.zone == zone or in_zone[target.zone] < tolerated)
        ]
        if fitting:
            best = min(fitting, key=lambda target: target.fill)
            found[index] = best.number
            free.remove(best)
            in_zone[zone] -= 1
            in_zone[best.zone] += 1
    return found


def destinations(
    layout: Sequence[int],
    moving: Collection[int],
    zone_of: ZoneOf,
    targets: Collection[Target],
    tolerated: int,
    forbidden: Collection[tuple[int, int]] = (),
) -> dict[int, int]:
    """A node for each index in `moving`, as far as there are any: first nodes that have no shard of
    the stripe, then zones that have few, then the least filled. No node gets more than `tolerated`
    shards, n - k: its loss must leave k. `forbidden` are places, (index, node), not to be used."""
    kept = [node for i, node in enumerate(layout) if i not in moving and node != NO_NODE]
    on_node, in_zone = Counter(kept), Counter(map(zone_of, kept))
    found: dict[int, int] = {}
    for index in sorted(moving):
        usable = [
            target
            for target in targets
            if on_node[target.number] < tolerated and (index, target.number) not in forbidden
        ]
        if not usable:
            continue
        best = min(
            usable,
            key=lambda t: (on_node[t.number], max(0, in_zone[t.zone] + 1 - tolerated), t.fill),
        )
        found[index] = best.number
        on_node[best.number] += 1
        in_zone[best.zone] += 1
    return found

"""What draining a node means: what is to be moved, how long that takes, and what all segments
survive now and then.

Segments are looked at as `sixfold durability` does: what is on nodes that are away does not count,
nor what is known to be bad. Of what repair has yet to do elsewhere nothing is taken as done.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from coordinator.jobs import progress_in
from coordinator.metadata import Wish
from coordinator.metadata.mending import LayoutLoad
from coordinator.metadata.packing import mask_of
from coordinator.metadata.rows import NO_NODE
from coordinator.moves import destinations
from coordinator.node import Node
from coordinator.placement import Target, survives
from coordinator.repair import Progress, RepairWorker
from coordinator.services import Services
from coordinator.standing import Layout, Standing, Surroundings, known_bad, surroundings


@dataclass(frozen=True, slots=True)
class DrainPlan:
    """`shards` is what the node said last that it has; it keeps them if there is a `failure` of its
    own, and while `deletes_stopped` says why. `unmovable` of the `segments` that are to be moved
    have fewer than k shards that can be read now; `left_s`, at the rate that `rate_is`, is an
    estimate for the others. `others` nodes can take its shards, and have `free_bytes`. The worst
    segment of the whole store, or one that is uploaded, survives the loss of any `survives_now`
    nodes or `survives_zones_now` zones, and of `survives` or `survives_zones` when the drain is
    over: -1 while `unreadable` segments of the store have too few shards on nodes that are there.
    `warning` is what gets worse, and `objection` why the drain is refused, if it is."""

    node: str
    node_id: str
    state: str
    wish: str
    shards: int | None
    failure: str
    deletes_stopped: str
    segments: int
    unmovable: int
    bytes: int
    left_s: float
    rate_is: str
    others: int
    free_bytes: int
    unreadable: int
    survives_now: int
    survives_zones_now: int
    survives: int
    survives_zones: int
    warning: str
    objection: str = ""


@dataclass(slots=True)
class _Found:
    """What the layouts say. `bytes` are those of the node's shards, `movable_bytes` those of the
    segments that can be moved, `promised_bytes` those of shards on other nodes that are to be left.
    `now` and `then` are all segments of the store."""

    now: Standing
    then: Standing
    segments: int = 0
    unmovable: int = 0
    bytes: int = 0
    movable_bytes: int = 0
    promised_bytes: int = 0


class _Spread(NamedTuple):
    """How many nodes, and how many zones, may be lost."""

    nodes: int
    zones: int


class _Scan:
    """Adds layouts up, as nodes are at its beginning."""

    def __init__(self, services: Services, number: int, others: Sequence[Target]) -> None:
        codec, self._members = services.codec, services.cluster.membership
        self._k, self._tolerated = codec.k, codec.n - codec.k
        self._number, self._others = number, others
        nodes = self._members.nodes
        self._around = surroundings(self._members)
        self._readable = Surroundings(dict.fromkeys(filter(self._members.is_readable, nodes), 1))
        self._leaving = set(filter(self._members.is_leaving, nodes)) - {number}
        self.found = _Found(Standing(codec.k), Standing(codec.k))

    def add(self, load: LayoutLoad, bad: Mapping[int, int]) -> None:
        """Of the segments with that layout bad[mask] have shards that are known to be bad."""
        found, layout = self.found, load.layout
        moving = [index for index, node in enumerate(layout) if node == self._number]
        found.bytes += len(moving) * load.shard_bytes
        found.promised_bytes += load.shard_bytes * sum(map(self._leaving.__contains__, layout))
        for mask, segments in _by_mask(load, bad):
            found.now.add(layout, segments, mask, self._around)
            if moving:
                self._add_moving(load, moving, segments, mask)
            else:
                found.then.add(layout, segments, mask, self._around)

    def _add_moving(self, load: LayoutLoad, moving: Sequence[int], segments: int, bad: int) -> None:
        """What is bad on the node itself is good where it is rebuilt."""
        found, layout = self.found, load.layout
        found.segments += segments
        if self._can_be_read(layout, bad):
            found.movable_bytes += load.shard_bytes * self._k * segments // load.segments
            layout, bad = self._moved(layout, moving), bad & ~mask_of(moving)
        else:
            found.unmovable += segments
        found.then.add(layout, segments, bad, self._around)

    def _moved(self, layout: Layout, moving: Sequence[int]) -> Layout:
        """As repair would place those."""
        zone_of = self._members.zone_of
        found = destinations(layout, moving, zone_of, self._others, self._tolerated)
        return tuple(found.get(index, node) for index, node in enumerate(layout))

    def _can_be_read(self, layout: Layout, bad: int) -> bool:
        """Also from nodes that are lost, if they serve."""
        there = self._readable.present(layout)
        return sum(n != NO_NODE and not bad >> i & 1 for i, n in enumerate(there)) >= self._k


def _by_mask(load: LayoutLoad, bad: Mapping[int, int]) -> Iterator[tuple[int, int]]:
    """Masks of bad shards, and how many segments have each: never more than there are, though some
    may have gone, or come to another layout, between two looks at the database."""
    left = load.segments
    for mask, segments in [*bad.items(), (0, left)]:
        if count := min(segments, left):
            yield mask, count
        left -= count


class Planner:
    """Makes plans in one coordinator process."""

    def __init__(self, services: Services) -> None:
        self._services, self._metadata = services, services.metadata
        self._members = services.cluster.membership

    async def plan(self, node: Node) -> DrainPlan:
        """What is still to be moved from a node. The room for what others have to give away is
        not free."""
        targets = list(self._members.targets(0).values())
        others = [target for target in targets if target.number != node.number]
        found = await self._scan(node.number, others)
        fresh_now, fresh = self._spread(targets), self._spread(others)
        free_bytes = sum(self._members.free_bytes(target.number) for target in others)
        left_s, rate_is = await self._estimate(found)
        wishes = await self._metadata.wishes()  # that of another process counts at once, too
        return DrainPlan(
            node=node.row.name,
            node_id=node.row.node_id,
            state=self._members.state(node).value,
            wish=wishes.get(node.number, Wish.ACTIVE).value,
            shards=node.report.shards if node.report else None,
            failure=node.report.failure if node.report else "",
            deletes_stopped=await self._metadata.deletes_stopped(),
            segments=found.segments,
            unmovable=found.unmovable,
            bytes=found.bytes,
            left_s=round(left_s, 1),
            rate_is=rate_is,
            others=len(others),
            free_bytes=max(0, free_bytes - found.promised_bytes),
            unreadable=found.now.spare_nodes[-1],
            survives_now=min([fresh_now.nodes, *found.now.spare_nodes]),
            survives_zones_now=min([fresh_now.zones, *found.now.spare_zones]),
            survives=min([fresh.nodes, *found.then.spare_nodes]),
            survives_zones=min([fresh.zones, *found.then.spare_zones]),
            warning=self._warning(found, fresh_now, fresh, len(others)),
        )

    async def _scan(self, number: int, others: Sequence[Target]) -> _Found:
        scan = _Scan(self._services, number, others)
        bad = await known_bad(self._metadata)
        async for load in self._metadata.mending.all_layout_loads():
            scan.add(load, bad.get(load.id, {}))
        return scan.found

    def _spread(self, targets: Sequence[Target]) -> _Spread:
        """Of a segment that repair would place on these."""
        codec = self._services.codec
        zone_of = {target.number: target.zone for target in targets}
        numbers = {zone: at for at, zone in enumerate(sorted(set(zone_of.values())), 1)}
        nowhere = [NO_NODE] * codec.n
        found = destinations(
            nowhere, range(codec.n), zone_of.__getitem__, targets, codec.n - codec.k
        )
        nodes, zones = found.values(), [numbers[zone_of[node]] for node in found.values()]
        return _Spread(survives(tuple(nodes), codec.k), survives(tuple(zones), codec.k))

    async def _estimate(self, found: _Found) -> tuple[float, str]:
        """Seconds, and at which rate. Each segment takes what one has taken when it was measured,
        and bytes beyond theirs as long as repair may take."""
        progress = progress_in(await self._metadata.job_states(), RepairWorker.name, Progress)
        allowed, per_s = self._services.config.repair_bytes_per_s, progress.segments_per_s
        if not per_s or not progress.bytes_per_s:
            return found.movable_bytes / allowed, "the rate that repair may have"
        segments = found.segments - found.unmovable
        more_bytes = max(0.0, found.movable_bytes - segments * progress.bytes_per_s / per_s)
        return segments / per_s + more_bytes / allowed, "the measured rate of repair"

    def _warning(self, found: _Found, fresh_now: _Spread, fresh: _Spread, others: int) -> str:
        """Of what can be read: one segment that is lost must not hide what becomes of the rest."""
        parts = list[str]()
        if others < self._services.codec.n:
            nodes = min([fresh.nodes, *found.then.spare_nodes])
            loss = f"the loss of {nodes} only" if nodes > 0 else "no loss"
            parts.append(f"on {others} other nodes, segments would survive {loss}")
        before = _least_readable(found.now.spare_zones, fresh_now.zones)
        after = _least_readable(found.then.spare_zones, fresh.zones)
        if after < before:
            lowers = "it lowers the number of zones that may be lost"
            parts.append(f"{lowers} from {before} to {after}")
        return "; ".join(parts)


def _least_readable(spare: Iterable[int], fresh: int) -> int:
    return min([fresh, *(count for count in spare if count >= 0)])

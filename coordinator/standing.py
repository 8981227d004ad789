"""How the segments of the whole store stand now: what each layout can still lose, added up."""

from collections import Counter, defaultdict
from collections.abc import Mapping, Set
from dataclasses import dataclass, field

from coordinator.durability import without
from coordinator.membership import Membership
from coordinator.metadata import Metadata
from coordinator.metadata.rows import NO_NODE
from coordinator.node import NodeState
from coordinator.placement import survives

LAYOUTS_AT_ONCE = 500
SEGMENTS_AT_ONCE = 2_000
MAX_NODE_SETS = 10_000  # told apart
ABSENT = (NodeState.DETACHED, NodeState.SUSPECT, NodeState.LOST, NodeState.REMOVED)
Layout = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Surroundings:
    """The nodes that are there now, and each one's zone as a number from 1 on; and those that will
    never come back."""

    zone_of: Mapping[int, int]
    removed: Set[int] = frozenset()

    def present(self, layout: Layout) -> Layout:
        """With NO_NODE for what is on no node that is there."""
        return tuple(node if node in self.zone_of else NO_NODE for node in layout)

    def hoped_for(self, layout: Layout) -> Layout:
        """With NO_NODE for what is on no node that is there or may come back."""
        return tuple(NO_NODE if node in self.removed else node for node in layout)

    def zones(self, layout: Layout) -> Layout:
        """The layout as if each zone were one node."""
        return tuple(self.zone_of.get(node, NO_NODE) for node in layout)


def surroundings(membership: Membership) -> Surroundings:
    """As this process sees the nodes now."""
    there = [n for n in membership.nodes.values() if membership.state(n) not in ABSENT]
    numbers = {zone: at for at, zone in enumerate({n.row.zone for n in there}, 1)}
    gone = [n for n in membership.nodes.values() if membership.state(n) is NodeState.REMOVED]
    return Surroundings(
        {node.number: numbers[node.row.zone] for node in there},
        frozenset(node.number for node in gone),
    )


@dataclass(frozen=True, slots=True)
class Kind:
    """Segments that are alike: on `holders` nodes, of which any `spare` may go. -1: fewer than k
    shards are left."""

    holders: int
    spare: int


@dataclass(slots=True)
class Standing:
    """Counts of segments. `complete` are those whose n shards all have a node, as if these were
    all there and good; `short` those of which a shard is bad or on no node that is there now, by
    what is left, and `gone` those of them that no node which comes back makes readable again;
    `spare_zones` all, by how many zones may still go. `on_absent` segments have a
    shard on no node that is there, `with_bad` one that is known to be bad."""

    k: int
    segments: int = 0
    layouts: int = 0
    on_absent: int = 0
    with_bad: int = 0
    complete: Counter[Kind] = field(default_factory=Counter)
    short: Counter[Kind] = field(default_factory=Counter)
    gone: Counter[Kind] = field(default_factory=Counter)
    spare_nodes: Counter[int] = field(default_factory=Counter)
    spare_zones: Counter[int] = field(default_factory=Counter)
    _node_sets: set[frozenset[int]] = field(default_factory=set)

    @property
    def node_sets(self) -> int:
        """How many different sets of nodes hold segments, at most."""
        few = len(self._node_sets) < MAX_NODE_SETS
        return len(self._node_sets) if few else self.layouts

    def add_layout(
        self, layout: Layout, segments: int, bad: Mapping[int, int], around: Surroundings
    ) -> None:
        """`segments` more that have this layout; of them bad[mask] whose shards of the mask are
        known to be bad."""
        self.layouts += 1
        for mask, count in bad.items():
            self.add(layout, count, mask, around)
        self.add(layout, segments - sum(bad.values()), 0, around)

    def add(self, layout: Layout, segments: int, bad: int, around: Surroundings) -> None:
        """`segments` more of that layout, whose shards of the mask `bad` are known to be bad."""
        if segments <= 0:
            return  # some went between two looks at the database
        there = around.present(layout)
        present = without(there, bad)
        left = _kind(present, self.k)
        self.segments += segments
        self.on_absent += segments if NO_NODE in there else 0
        self.with_bad += segments if bad else 0
        self.spare_nodes[left.spare] += segments
        self.spare_zones[survives(around.zones(present), self.k)] += segments
        if len(self._node_sets) < MAX_NODE_SETS:
            self._node_sets.add(frozenset(layout) - {NO_NODE})
        if NO_NODE not in layout:
            self.complete[_kind(layout, self.k)] += segments
        if NO_NODE in present:
            self.short[left] += segments
            hoped_for = without(around.hoped_for(layout), bad)
            self.gone[left] += segments if survives(hoped_for, self.k) < 0 else 0


def _kind(layout: Layout, k: int) -> Kind:
    return Kind(len(set(layout) - {NO_NODE}), survives(layout, k))


async def standing_of(metadata: Metadata, around: Surroundings, k: int) -> Standing:
    """Looks at every layout in use, some at a time, so that requests come in between."""
    standing, after = Standing(k), 0
    bad = await known_bad(metadata)
    while uses := await metadata.layout_uses(after, LAYOUTS_AT_ONCE):
        after = uses[-1].id
        for use in uses:
            if use.segments:
                standing.add_layout(use.layout, use.segments, bad.get(use.id, {}), around)
    return standing


async def known_bad(metadata: Metadata) -> Mapping[int, Counter[int]]:
    """Of each layout that has such, how many segments have which shards that are known to be bad,
    as masks."""
    found: defaultdict[int, Counter[int]] = defaultdict(Counter)
    after = b""
    while page := await metadata.known_bad(after, SEGMENTS_AT_ONCE):
        after = page[-1].segment
        for each in page:
            found[each.layout][each.bad] += 1
    return found

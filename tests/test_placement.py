"""Ring, placement and quorum: pure functions, judged by what they promise."""

import itertools
import random
from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.hashing import blake3_digest
from common.ids import SegmentId
from coordinator.placement import Placement, Target, candidates, is_quorum, place, survives
from coordinator.ring import VNODES, Ring, RingNode, vnode_count

K, N = 6, 9


def segment(number: int) -> SegmentId:
    return SegmentId(blake3_digest(number.to_bytes(8, "big")))


def ring_of(numbers: range, capacity_bytes: int = 1 << 40) -> Ring:
    return Ring(RingNode(n, f"{n:032x}", capacity_bytes) for n in numbers)


def targets_of(numbers: range, zones: int = 1) -> dict[int, Target]:
    return {n: Target(n, f"zone-{n % zones}", 0.5) for n in numbers}


def place_in(ring: Ring, targets: dict[int, Target], id_: SegmentId) -> Placement:
    zones = Counter(target.zone for target in targets.values())
    return place(candidates(ring, targets.get, lambda: zones, id_, K, N), K, N)


def test_walk_visits_every_node_once_and_always_in_the_same_order() -> None:
    ring = ring_of(range(1, 13))
    for number in range(50):
        walked = list(ring.walk(segment(number)))
        assert sorted(walked) == list(range(1, 13))
        assert walked == list(ring_of(range(1, 13)).walk(segment(number)))


def test_a_new_node_moves_only_its_share_of_first_places() -> None:
    before, after = ring_of(range(1, 21)), ring_of(range(1, 22))
    firsts = [(next(before.walk(s)), next(after.walk(s))) for s in map(segment, range(4000))]
    moved = [new for old, new in firsts if old != new]
    assert set(moved) == {21}
    assert 4000 / 21 * 0.6 < len(moved) < 4000 / 21 * 1.4


@pytest.mark.parametrize("sizes", [(4, 4), (4, 8), (8, 4), (4, 16), (16, 4), (1, 1000), (4, 0)])
def test_nodes_that_join_move_their_share_whatever_their_size(sizes: tuple[int, int]) -> None:
    """Half the nodes have either size: one more, and the median is another."""
    old, new = sizes
    capacities = [(old << 40, new << 40)[number % 2] for number in range(101)]
    members = [RingNode(n, f"{n:032x}", capacity) for n, capacity in enumerate(capacities, 1)]
    joined = [RingNode(n, f"{n:032x}", new << 40) for n in range(102, 105)]
    before, after = Ring(members), Ring(members + joined)
    moved = 0
    for number in range(300):
        first, then = (set(itertools.islice(r.walk(segment(number)), N)) for r in (before, after))
        moved += len(first - then)
    share = len(joined) / len(capacities)
    assert moved / (300 * N) <= 2.5 * share


def test_vnodes_follow_capacity() -> None:
    assert vnode_count(1 << 40, 1 << 40) == VNODES
    assert vnode_count(2 << 40, 1 << 40) == 2 * VNODES
    assert vnode_count(0, 1 << 40) == 8
    assert vnode_count(1 << 60, 1 << 40) == 1024


@pytest.mark.parametrize("nodes", range(1, 13))
def test_shards_are_spread_evenly(nodes: int) -> None:
    numbers = range(1, nodes + 1)
    for number in range(20):
        placement = place_in(ring_of(numbers), targets_of(numbers), segment(number))
        counts = Counter(placement.layout)
        assert len(placement.layout) == N
        assert len(counts) == min(nodes, N)
        assert max(counts.values()) - min(counts.values()) <= 1
        assert set(placement.layout).isdisjoint(placement.spares)
        assert len(counts) + len(placement.spares) == nodes


def test_the_least_filled_are_chosen() -> None:
    numbers = range(1, 13)
    targets = {n: Target(n, "a", 0.1 if n in (3, 7, 11) else 0.5 + n / 100) for n in numbers}
    placement = place_in(ring_of(numbers), targets, segment(1))
    assert {3, 7, 11} < set(placement.layout)
    assert set(placement.spares) == {10, 9, 12}
    assert placement.spares[0] == 9  # the emptier spare first


def test_nodes_that_are_not_targets_get_nothing() -> None:
    numbers = range(1, 13)
    targets = {n: t for n, t in targets_of(numbers).items() if n not in (2, 4)}
    placement = place_in(ring_of(numbers), targets, segment(5))
    assert {2, 4}.isdisjoint(placement.layout + placement.spares)


@pytest.mark.parametrize(("zones", "nodes"), [(3, 9), (3, 12), (4, 12), (9, 9), (5, 20)])
def test_losing_one_zone_loses_no_segment(zones: int, nodes: int) -> None:
    numbers = range(1, nodes + 1)
    targets = targets_of(numbers, zones)
    for number in range(100):
        layout = place_in(ring_of(numbers), targets, segment(number)).layout
        assert max(Counter(targets[n].zone for n in layout).values()) <= N - K


def test_two_zones_share_as_evenly_as_they_can() -> None:
    numbers = range(1, 21)
    targets = targets_of(numbers, 2)
    layout = place_in(ring_of(numbers), targets, segment(3)).layout
    assert max(Counter(targets[n].zone for n in layout).values()) == 5


def crowded(ring: Ring, id_: SegmentId, near: str, far: str) -> dict[int, Target]:
    """Targets whose first 27 in ring order have the zones of `near` in turn, the rest `far`."""
    order = list(ring.walk(id_))
    return {
        number: Target(number, near[at % len(near)] if at < 27 else far[at % len(far)], 0.5)
        for at, number in enumerate(order)
    }


@pytest.mark.parametrize(
    ("near", "far", "most"),
    [
        ("a", "bc", 3),
        ("ab", "c", 3),
        ("ab", "cde", 3),
        ("a", "b", 5),
        ("ab", "ab", 5),
        ("a", "a", 9),
    ],
)
def test_zones_are_spread_where_the_first_candidates_crowd(near: str, far: str, most: int) -> None:
    ring = ring_of(range(1, 101))
    for number in range(5):
        targets = crowded(ring, segment(number), near, far)
        layout = place_in(ring, targets, segment(number)).layout
        assert len(set(layout)) == N
        assert max(Counter(targets[n].zone for n in layout).values()) == most


def test_one_node_alone_in_its_zone_is_found_and_the_rest_shared() -> None:
    ring = ring_of(range(1, 101))
    targets = crowded(ring, segment(1), "a", "ab")
    last = list(ring.walk(segment(1)))[-1]
    targets = {n: replace(t, zone="z" if n == last else t.zone) for n, t in targets.items()}
    layout = place_in(ring, targets, segment(1)).layout
    assert Counter(targets[n].zone for n in layout) == {"a": 4, "b": 4, "z": 1}


def test_zone_sizes_that_are_out_of_date_cost_only_time() -> None:
    ring = ring_of(range(1, 101))
    targets = {n: t for n, t in targets_of(range(1, 101), 3).items() if t.zone != "zone-0"}
    for sizes in ({"zone-0": 33, "zone-1": 33, "zone-2": 33}, {"zone-1": 2}, {}):
        found = candidates(ring, targets.get, sizes.copy, segment(1), K, N)
        layout = place(found, K, N).layout
        assert max(Counter(targets[n].zone for n in layout).values()) == 5


def test_only_nodes_on_the_way_are_judged() -> None:
    targets, judged = targets_of(range(1, 1001), 20), []

    def judge(number: int) -> Target | None:
        judged.append(number)
        return targets[number] if number % 10 else None

    ring = ring_of(range(1, 1001))
    for number in range(20):
        judged.clear()
        found = candidates(ring, judge, dict, segment(number), K, N)
        assert len(found) == 27
        assert judged == list(itertools.islice(ring.walk(segment(number)), len(judged)))
        assert len(judged) < 50


def test_a_zone_too_small_for_its_share_leaves_the_rest_to_others() -> None:
    targets = {n: Target(n, "small" if n == 1 else f"zone-{n % 2}", 0.5) for n in range(1, 12)}
    layout = place_in(ring_of(range(1, 12)), targets, segment(3)).layout
    assert len(set(layout)) == N


@pytest.mark.parametrize(
    ("sizes", "most"), [((3, 3, 2), 3), ((2, 2, 2), 3), ((1, 3, 3), 4), ((4, 4), 5), ((5, 1, 1), 5)]
)
def test_who_takes_two_shards_is_where_the_zone_allows_it(
    sizes: tuple[int, ...], most: int
) -> None:
    """With fewer nodes than shards; and however full they are, none takes more than he must."""
    zones = [str(zone) for zone, size in enumerate(sizes) for _ in range(size)]
    for seed in range(50):
        chance = random.Random(seed)
        found = [Target(number, zone, chance.random()) for number, zone in enumerate(zones, 1)]
        chance.shuffle(found)
        layout = place(found, 6, 9).layout
        assert max(Counter(zones[number - 1] for number in layout).values()) == most
        assert max(Counter(layout).values()) == -(-9 // len(zones))


def test_data_shards_are_spread_over_nodes() -> None:
    """Reads ask data shards only: every node must hold its part of them."""
    numbers = range(1, 10)
    held: Counter[int] = Counter()
    for number in range(3000):
        held.update(place_in(ring_of(numbers), targets_of(numbers), segment(number)).layout[:K])
    assert min(held.values()) > 0.7 * 2000
    assert max(held.values()) < 1.3 * 2000


def test_a_long_run_fills_nodes_evenly_and_late_ones_catch_up() -> None:
    used = dict.fromkeys(range(1, 10), 0)
    capacity = 10**9

    def fill(rounds: int, seed: int) -> None:
        sizes = random.Random(seed)
        ring = ring_of(range(1, len(used) + 1))
        for number in range(rounds):
            targets = {n: Target(n, "a", u / capacity) for n, u in used.items()}
            size = sizes.choice((700, 11_000, 180_000))
            for node in place_in(ring, targets, segment(seed * 10**6 + number)).layout:
                used[node] += size

    fill(300, 1)
    old = dict(used)
    assert max(used.values()) == min(used.values())
    used.update({10: 0, 11: 0, 12: 0})
    fill(300, 2)
    grown = {n: used[n] - old.get(n, 0) for n in used}
    assert min(grown[n] for n in (10, 11, 12)) > max(grown[n] for n in range(1, 10))
    first = [used[n] for n in range(1, 10)]
    assert max(first) - min(first) <= 0.05 * sum(first) / 9
    fill(2000, 3)
    assert max(used.values()) - min(used.values()) <= 0.05 * sum(used.values()) / 12


@pytest.mark.parametrize(
    ("layout", "expected"),
    [
        (range(1, 10), 3),
        ([*range(1, 9), 0], 2),
        ([*range(1, 7), 0, 0, 0], 0),
        ([*range(1, 6), 0, 0, 0, 0], -1),
        ([1, 2, 3] * 3, 1),
        ([1, 2, 3, 4, 5, 6, 1, 2, 3], 1),
        ([1, 2, 3, 4, 5, 6, 7, 8, 1], 2),
        ([1, 2] * 4 + [1], 0),
        ([1] * 9, 0),
        ([], -1),
    ],
)
def test_survives(layout: list[int], expected: int) -> None:
    assert survives(tuple(layout), K) == expected


@given(st.lists(st.integers(0, 7), min_size=9, max_size=9))
def test_survives_is_what_trying_every_loss_gives(layout: list[int]) -> None:
    nodes = sorted(set(layout) - {0})
    tolerated = -1
    for lost in range(len(nodes) + 1):
        left = [
            sum(node not in gone for node in layout if node)
            for gone in itertools.combinations(nodes, lost)
        ]
        if min(left) < K:
            break
        tolerated = lost
    assert survives(tuple(layout), K) == tolerated


@pytest.mark.parametrize(
    ("nodes", "enough"),
    [
        (range(1, 10), True),
        (range(1, 9), True),
        (range(1, 8), False),  # one more must be had: the cluster has the nodes
        ([1, 2, 3] * 3, True),
        ([1, 2, 3, 1, 2, 3, 1, 2], False),  # losing node 1 would lose it all
        ([1, 2] * 4 + [1], False),
        ([1, 2, 3, 4, 5, 6, 1, 2], True),
    ],
)
def test_quorum(nodes: list[int], enough: bool) -> None:
    assert is_quorum(nodes, N, K) is enough

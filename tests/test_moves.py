"""Which shards lie badly: not only on shared nodes, but more of them in a zone than may be lost."""

import random
from collections import Counter
from collections.abc import Sequence

import pytest

from coordinator.metadata.rows import NO_NODE
from coordinator.moves import crowded, destinations
from coordinator.placement import Target

N, TOLERATED = 9, 3
Layout = tuple[int, ...]


class Nodes:
    """Numbered from 1 on, each in the zone of its letter; those in `full` can take no shards."""

    def __init__(self, zones: str, full: Sequence[int] = ()) -> None:
        self._zones = zones
        self.targets = [
            Target(number, zone, 0.5) for number, zone in enumerate(zones, 1) if number not in full
        ]

    def zone_of(self, number: int) -> str:
        return self._zones[number - 1]

    def crowded(self, layout: Layout) -> list[int]:
        return crowded(layout, self.zone_of, self.targets, TOLERATED)

    def moved(self, layout: Layout) -> Layout:
        """As mending does it."""
        moving = self.crowded(layout)
        found = destinations(layout, moving, self.zone_of, self.targets, TOLERATED)
        return tuple(found.get(index, node) for index, node in enumerate(layout))

    def in_zones(self, layout: Layout) -> Counter[str]:
        return Counter(self.zone_of(node) for node in layout if node != NO_NODE)

    def too_many(self, layout: Layout) -> int:
        """How many shards are in zones beyond what may be lost."""
        return sum(max(0, count - TOLERATED) for count in self.in_zones(layout).values())

    def could_lie_better(self, layout: Layout) -> bool:
        zones = self.in_zones(layout)
        free = [target for target in self.targets if target.number not in layout]
        roomy = {target.zone for target in free if zones[target.zone] < TOLERATED}
        shared = [n for n, count in Counter(layout).items() if count > 1 and n != NO_NODE]
        beside = {target.zone for target in free}.intersection(map(self.zone_of, shared))
        too_full = {zone for zone, count in zones.items() if count > TOLERATED}
        return bool((shared and roomy) or beside or (too_full and roomy - too_full))


SPREAD = tuple(range(1, 10))


@pytest.mark.parametrize(
    ("zones", "expected"),
    [
        ("aaaabbbcc", []),  # there is no other node
        ("aaaabbbccc", [0]),  # a zone with two of them has one that is free
        ("aaaabbbcccc", [0]),
        ("aaaabbbbcc", [0]),
        ("aaaabbbbccc", [0, 4]),
        ("aaaaaabbbdef", [0, 1, 2]),
        ("aaaabbbbca", []),  # what is free is in the same zone
        ("aaaabbbccb", []),  # or in one that has enough
        ("aaabbbcccd", []),
    ],
)
def test_a_zone_with_too_many_gives_some_away(zones: str, expected: list[int]) -> None:
    assert Nodes(zones).crowded(SPREAD) == expected


@pytest.mark.parametrize(
    ("zones", "expected"),
    [
        ("aaabbbccc", [1]),  # node 2, in its own zone
        ("aabbbccca", [1]),
        ("abbbbaccc", []),  # it would be the fourth of b
        ("abbbbaacc", [1]),  # as it is of a
    ],
)
def test_the_second_shard_of_a_node_goes_where_the_zone_has_room(
    zones: str, expected: list[int]
) -> None:
    nodes, layout = Nodes(zones), (1, 1, 3, 4, 5, 6, 7, 8, 9)
    assert nodes.crowded(layout) == expected


def test_a_full_node_helps_nobody() -> None:
    assert Nodes("aaaabbbccc", full=[10]).crowded(SPREAD) == []
    assert Nodes("aaabbbccc", full=[2]).crowded((1, 1, *range(3, 10))) == []


@pytest.mark.parametrize("seed", range(100))
def test_what_moves_lies_better_and_comes_to_an_end(seed: int) -> None:
    chance = random.Random(seed)
    zones = "".join(chance.choices("abcde"[: chance.randint(2, 5)], k=chance.randint(6, 14)))
    numbers = range(1, len(zones) + 1)
    nodes = Nodes(zones, chance.sample(numbers, chance.randint(0, 3)))
    layout: Layout = tuple(chance.choices([NO_NODE, *numbers], k=N))
    for _ in range(N):
        if not nodes.crowded(layout):
            break
        before, layout = layout, nodes.moved(layout)
        assert len(set(layout)) >= len(set(before))
        assert nodes.too_many(layout) <= nodes.too_many(before)
    assert nodes.crowded(layout) == []
    assert not nodes.could_lie_better(layout)

"""What `sixfold durability` says, against chance and against trying everything: the yearly loss
against Monte Carlo, and what may fail now against every set of nodes and of zones."""

import math
import random
from dataclasses import dataclass, field
from itertools import combinations

from coordinator.config import ALL_SHARDS, DATA_SHARDS
from coordinator.metadata.rows import NO_NODE
from coordinator.risk import HOURS_PER_YEAR, Assumed, loss_before_repair, yearly_loss
from coordinator.standing import Layout, Standing, Surroundings
from tests.torture.outcome import Outcome, scaled

ROW = 26
PROMISE = "durability is told as it is: loss as chance has it, what may fail now as it does"
SETTINGS, EXCURSIONS, STANDINGS = 1_000, 100_000, 100_000

# The formulas are of leading order: they leave out that fewer nodes are left to fail again, and
# that some have just been rebuilt. For a segment that is short the first of these is all there is.
TOLERANCE = 0.3
SIGMAS = 4  # of what was seen, beyond that
LEAST = 200  # losses
ABSENT = (0.02, 0.035)  # the part of its time that a node is away: so much that losses are seen


@dataclass
class Tally:
    settings: int = 0
    losses: int = 0
    farthest: float = 0.0
    standings: int = 0
    violations: list[str] = field(default_factory=list)

    def figure(self) -> str:
        return (
            f"{self.settings:,} settings, {self.losses:,} losses seen, {self.farthest:.0%} from "
            f"the formula at most; {self.standings:,} layouts against all sets of nodes and zones; "
            f"{len(self.violations)} figures wrong"
        )

    def compare(self, what: str, told: float, seen: float, losses: int) -> None:
        """`seen` is a frequency that rests on so many losses; few say nothing."""
        if losses < LEAST:
            return
        self.settings += 1
        self.losses += losses
        distance = abs(seen - told) / told
        self.farthest = max(self.farthest, distance)
        if distance > TOLERANCE + SIGMAS / math.sqrt(losses):
            self.violations.append(f"{what}: {told:.3g} told, {seen:.3g} seen")


def main(scale: float, seed: int) -> Outcome:
    rng, tally = random.Random(seed), Tally()
    for _ in range(scaled(SETTINGS, scale, least=4)):
        _yearly(rng, tally)
        _before_repair(rng, tally)
    for _ in range(scaled(STANDINGS, scale)):
        _may_fail(rng, tally)
    return Outcome(tally.figure(), tally.violations)


def _setting(rng: random.Random) -> tuple[Assumed, int, int]:
    """Rates, and how many nodes hold a segment, of which how many may be away."""
    spare = rng.randint(1, 3)
    holders = rng.randint(spare + 2, ALL_SHARDS)
    afr = rng.uniform(0.3, 0.9)
    repair_h = rng.uniform(*ABSENT) / Assumed(afr, 0.0, 1.0, 0.0).failures_per_hour
    return Assumed(afr, 0.0, repair_h, 0.0), holders, spare


def _yearly(rng: random.Random, tally: Tally) -> None:
    assumed, holders, spare = _setting(rng)
    serial = rng.random() < 0.5
    told, lost = yearly_loss(assumed, holders, spare), 0
    for _ in range(EXCURSIONS):
        lost += is_lost(rng, assumed, holders, spare, serial)
    rate = holders * assumed.failures_per_hour * HOURS_PER_YEAR
    what = f"{holders} nodes, {spare} spare, {assumed}, serial {serial}"
    tally.compare(what, told.serial if serial else told.parallel, rate * lost / EXCURSIONS, lost)


def is_lost(rng: random.Random, assumed: Assumed, holders: int, spare: int, serial: bool) -> bool:
    """From the first failure until all is well again: a chain of failures and repairs, each at its
    rate."""
    away = 1
    while 0 < away <= spare:
        failing = (holders - away) * assumed.failures_per_hour
        mending = (1 if serial else away) / assumed.repair_h
        away += 1 if rng.random() * (failing + mending) < failing else -1
    return away > 0


def _before_repair(rng: random.Random, tally: Tally) -> None:
    """The nodes that are left fail or not, each by itself, before the repair is done."""
    assumed, holders, spare = _setting(rng)
    fails = -math.expm1(-assumed.failures_per_hour * assumed.repair_h)
    lost = 0
    for _ in range(EXCURSIONS):
        lost += sum(rng.random() < fails for _ in range(holders)) > spare
    what = f"short: {holders} nodes, {spare} spare, {assumed}"
    told = loss_before_repair(assumed, holders, spare)
    tally.compare(what, told, lost / EXCURSIONS, lost)


def _may_fail(rng: random.Random, tally: Tally) -> None:
    """One layout: spread or crowded, over few zones or many, with nodes away and shards bad."""
    tally.standings += 1
    nodes = range(1, rng.randint(3, 14))
    zones = {node: rng.randint(1, rng.choice((1, 3, 20))) for node in nodes}
    there = {node: zone for node, zone in zones.items() if rng.random() < 0.85}
    choices = [*nodes, NO_NODE] if rng.random() < 0.2 else list(nodes)
    spread = len(choices) >= ALL_SHARDS and rng.random() < 0.7
    layout = tuple(rng.sample(choices, ALL_SHARDS) if spread else rng.choices(choices, k=9))
    bad = rng.choice((0, 0, rng.randrange(1 << ALL_SHARDS)))
    standing = Standing(DATA_SHARDS)
    standing.add_layout(layout, 1, {bad: 1} if bad else {}, Surroundings(there))
    good = [n for i, n in enumerate(layout) if n in there and not bad >> i & 1]
    for what, told, places in (
        ("nodes", standing.spare_nodes, good),
        ("zones", standing.spare_zones, [there[node] for node in good]),
    ):
        seen = _survives(places)
        if told != {seen: 1}:
            state = f"{layout} of {there}, bad {bad:b}"
            tally.violations.append(f"{state}: {dict(told)} {what} told, {seen} may fail")


def _survives(places: Layout | list[int]) -> int:
    """How many of the places, whichever, may go so that k shards are left; -1 if they are not now.
    By trying all sets."""
    distinct, most = set(places), -1
    for count in range(len(distinct) + 1):
        for gone in combinations(distinct, count):
            if sum(place not in gone for place in places) < DATA_SHARDS:
                return most
        most = count
    return most

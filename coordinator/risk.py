"""How likely data is to be lost: the mathematics alone, from figures that others have measured.

The model is that of Markov chains for redundant disks (Patterson, Gibson and Katz, "A Case for
Redundant Arrays of Inexpensive Disks", SIGMOD 1988; for p + 1 failures Angus, "On Computing MTBF
for a k-out-of-n:G Repairable System", IEEE Trans. Reliability 37(3), 1988), to leading order, which
is right while a node is rarely away. It takes failures as independent, which they are not quite.
"""

import math
from dataclasses import dataclass

HOURS_PER_YEAR = 8766


@dataclass(frozen=True, slots=True)
class Assumed:
    """What the figures rest on.

    `afr` is the annual failure rate of a node, 0 to 1. `rot_per_shard_year` says how often one
    shard rots unseen. `repair_h` is what passes from a failure until all is as before: to find it,
    to wait for a turn, to rebuild. A shard is looked at every `scrub_h` hours.
    """

    afr: float
    rot_per_shard_year: float
    repair_h: float
    scrub_h: float

    @property
    def failures_per_hour(self) -> float:
        """λ: of one node, if failures come at a constant rate."""
        return -math.log1p(-self.afr) / HOURS_PER_YEAR

    @property
    def rots_per_hour(self) -> float:
        """Of one shard."""
        return self.rot_per_shard_year / HOURS_PER_YEAR

    @property
    def absent(self) -> float:
        """λR + c (S/2 + R): the part of its time in which a shard cannot be had. Rot is found half
        a scrub interval after it happened, on average."""
        return (
            self.failures_per_hour * self.repair_h
            + self.rots_per_hour * (self.scrub_h / 2 + self.repair_h)
        )  # fmt: skip


@dataclass(frozen=True, slots=True)
class Loss:
    """How often something is lost in a year, if shards are rebuilt all at once, and if one after
    another. Far below one, that is the probability as well."""

    parallel: float
    serial: float

    def __add__(self, other: "Loss") -> "Loss":
        return Loss(self.parallel + other.parallel, self.serial + other.serial)

    def __sub__(self, other: "Loss") -> "Loss":
        return Loss(self.parallel - other.parallel, self.serial - other.serial)

    def times(self, factor: float) -> "Loss":
        return Loss(self.parallel * factor, self.serial * factor)

    def at_most(self, other: "Loss") -> "Loss":
        return Loss(min(self.parallel, other.parallel), min(self.serial, other.serial))

    def probability(self) -> "Loss":
        """Of at least one in a year."""
        return Loss(-math.expm1(-self.parallel), -math.expm1(-self.serial))


def yearly_loss(assumed: Assumed, holders: int, spare: int) -> Loss:
    """Of one segment on `holders` nodes, of which any `spare` may be away.

    8766 · n · C(n−1, p) · λ · (λR)^p when repairs run in parallel, p! times that when they run one
    after another. Rot adds to λR as `Assumed.absent` says, and to the last λ, since the last shard
    may go that way too.
    """
    last = assumed.failures_per_hour + assumed.rots_per_hour
    ways = holders * math.comb(holders - 1, spare)
    parallel = HOURS_PER_YEAR * ways * last * assumed.absent**spare
    return Loss(parallel, parallel * math.factorial(spare))


def loss_before_repair(assumed: Assumed, holders: int, spare: int) -> float:
    """The probability that a segment with `holders` nodes left, of which any `spare` may still go,
    is lost before its repair is done, to leading order. 1 if it is lost already."""
    if spare < 0:
        return 1.0
    return min(1.0, math.comb(holders, spare + 1) * assumed.absent ** (spare + 1))


def any_loss(
    assumed: Assumed, holders: int, spare: int, nodes: int, node_sets: int, segments: int
) -> Loss:
    """Of any of `segments` alike, which lie on `node_sets` different sets of nodes out of `nodes`.

    Segments on the same nodes go together when nodes fail, and no segment goes before `spare` + 1
    of all nodes have: the lesser bound counts. Rot strikes each segment by itself.
    """
    one = yearly_loss(assumed, holders, spare)
    no_rot = Assumed(assumed.afr, 0.0, assumed.repair_h, assumed.scrub_h)
    by_nodes = yearly_loss(no_rot, holders, spare)
    cluster = yearly_loss(no_rot, max(nodes, holders), spare)
    return by_nodes.times(node_sets).at_most(cluster) + (one - by_nodes).times(segments)

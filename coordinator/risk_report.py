"""What an operator is told of the store's durability: what may fail now, and what it is likely to
lose in a year, with everything that this rests on."""

import asyncio
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from common.errors import BadRequest
from coordinator.cluster import Cluster
from coordinator.config import ALL_SHARDS, DATA_SHARDS, Config
from coordinator.metadata import JobState, Metadata
from coordinator.node import Node, NodeState
from coordinator.risk import Assumed, any_loss, loss_before_repair, yearly_loss
from coordinator.scrub import progress_of
from coordinator.standing import Kind, Standing, Surroundings, standing_of, surroundings

AFR = 0.02  # of a node: what large fleets of disks report, and a little more
# Of one shard: Bairavasundaram et al., "An Analysis of Latent Sector Errors in Disk Drives"
# (SIGMETRICS 2007), found some tens of errors a year in a tenth of the disks of 1 TB.
ROT_PER_SHARD_YEAR = 1e-6
FRESH_S = 10.0
HOUR_S = 3600

MODEL = (
    "These figures are those of a model in which nodes fail independently of each other, at a "
    "constant rate."
)
METADATA = (
    "The metadata is one SQLite file: this is the yearly probability that the disk under it fails, "
    "if it is like a node's. How old its last backup is, is unknown. After its loss, sixfold admin "
    "rebuild-metadata finds the contents again on the nodes; deleted ones may come back."
)


@dataclass(frozen=True, slots=True)
class Sourced:
    """A figure in hours, and where it comes from."""

    hours: float
    source: str


class RiskReport:
    """Makes the report; what the database had to be scanned for is kept for some seconds."""

    def __init__(
        self,
        config: Config,
        metadata: Metadata,
        cluster: Cluster,
        clock: Callable[[], float],
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        self._config, self._metadata, self._cluster = config, metadata, cluster
        self._clock, self._wall_clock = clock, wall_clock
        self._scanned_at_s, self._around = float("-inf"), Surroundings({}, frozenset())
        self._standing = Standing(DATA_SHARDS)
        self._scanning = asyncio.Lock()

    async def make(self, afr: float = AFR, rot: float = ROT_PER_SHARD_YEAR) -> dict[str, Any]:
        """As JSON. `rot` is per shard and year. Raises BadRequest for what are no rates."""
        if not 0 < afr < 1 or not 0 <= rot < 1:
            raise BadRequest("afr must be above 0 and below 1, rot at least 0 and below 1")
        standing = await self._standing_now()
        queued = await self._metadata.queued_by_survivors()
        states = await self._metadata.job_states()
        repair, scrub = self._repair(states), await self._scrub(states)
        assumed = Assumed(afr, rot, repair.hours, scrub.hours)
        return {
            "segments": standing.segments,
            "may_fail_now": _may_fail(standing),
            "short": _short(standing, queued, assumed),
            "assumed": {
                **asdict(assumed),
                "repair_h_is": repair.source,
                "scrub_h_is": scrub.source,
            },
            "loss_per_year": _losses(assumed, standing, len(self._present())),
            "metadata_loss_per_year": {"probability": afr, "words": METADATA},
            "correlated": _correlated(_may_fail(standing)),
            "model": MODEL,
        }

    async def _standing_now(self) -> Standing:
        """Of a few seconds ago at most, and of the nodes as they are now."""
        async with self._scanning:
            around = surroundings(self._cluster.membership)
            if around != self._around or self._clock() - self._scanned_at_s >= FRESH_S:
                self._standing = await standing_of(self._metadata, around, DATA_SHARDS)
                self._scanned_at_s, self._around = self._clock(), around
        return self._standing

    def _present(self) -> list[Node]:
        """The nodes that belong to the cluster."""
        members = self._cluster.membership
        return [n for n in members.nodes.values() if members.state(n) is not NodeState.REMOVED]

    def _repair(self, states: Mapping[str, JobState]) -> Sourced:
        """From the failure of the fullest node to its last shard on another. Rates of repair are
        those of whole segments: for each shard that is lost, k are read."""
        reports = [node.report for node in self._present() if node.report]
        fullest_bytes = max((report.used_bytes for report in reports), default=0)
        repair = states.get("repair")
        measured = repair.state.get("bytes_per_s") if repair else None
        rate = measured or self._config.repair_bytes_per_s
        source = "the measured rate of repair" if measured else "the rate that repair may have"
        hours = (self._config.lost_after_s + fullest_bytes * DATA_SHARDS / rate) / HOUR_S
        return Sourced(hours, f"to see it as lost, and to rebuild the fullest node at {source}")

    async def _scrub(self, states: Mapping[str, JobState]) -> Sourced:
        """What passes between two looks at the shard that is looked at most seldom, by the scrub
        of stripes or by those of the nodes, whichever is better."""
        scrubs = await self._stripe_scrub(states), self._node_scrubs()
        if found := [scrub for scrub in scrubs if scrub is not None]:
            return min(found, key=lambda scrub: scrub.hours)
        age_s = await self._metadata.cluster_age_s()
        return Sourced(age_s / HOUR_S, "the age of the store: no scrub has seen all of it yet")

    async def _stripe_scrub(self, states: Mapping[str, JobState]) -> Sourced | None:
        progress = progress_of(states)
        if not progress.verified_at_s:
            return None
        age_s = await self._metadata.now_s() - progress.verified_at_s
        if age_s > self._config.scrub_interval_s:
            return Sourced(age_s / HOUR_S, "the age of the last scrub that saw everything")
        return Sourced(self._config.scrub_interval_s / HOUR_S, "the interval of scrubs")

    def _node_scrubs(self) -> Sourced | None:
        """None while a node has not looked at everything once."""
        nodes = self._present()
        reports = [n.report for n in nodes if n.report and n.report.verified_at]
        if not nodes or len(reports) < len(nodes):
            return None
        interval_s = max(report.scrub_interval_s for report in reports)
        age_s = self._wall_clock() - min(report.verified_at for report in reports)
        if age_s > interval_s:
            return Sourced(age_s / HOUR_S, "the age of the oldest scrub of a node")
        return Sourced(interval_s / HOUR_S, "the interval of the nodes' scrubs")


def _may_fail(standing: Standing) -> dict[str, int | None]:
    """The least over all segments; None if there are none."""
    if not standing.segments:
        return {"nodes": None, "zones": None}
    return {"nodes": min(standing.spare_nodes), "zones": min(standing.spare_zones)}


def _short(standing: Standing, queued: Mapping[int, int], assumed: Assumed) -> dict[str, Any]:
    """Of what cannot be read now no loss is told: nodes that are away may come back, which helps
    all but those that are `gone`."""
    kinds = sorted(standing.short.items(), key=lambda item: item[0].spare)
    return {
        "on_absent_nodes": standing.on_absent,
        "with_bad_shards": standing.with_bad,
        "kinds": [
            {
                "nodes": kind.holders,
                "may_fail": kind.spare,
                "segments": segments,
                "gone": standing.gone[kind],
                "loss_before_repair": loss_before_repair(assumed, kind.holders, kind.spare)
                if kind.spare >= 0
                else None,
            }
            for kind, segments in kinds
        ],
        "queued": sum(queued.values()),
        "fewest_survivors": min(queued, default=None),
    }


def _losses(assumed: Assumed, standing: Standing, nodes: int) -> dict[str, Any]:
    """Of the segments that have all their shards; if there are none, of one that would."""
    kinds = standing.complete or {Kind(ALL_SHARDS, ALL_SHARDS - DATA_SHARDS): 0}
    worst = max(kinds, key=lambda kind: yearly_loss(assumed, kind.holders, kind.spare).serial)
    of_one = yearly_loss(assumed, worst.holders, worst.spare)
    of_any = any_loss(
        assumed, worst.holders, worst.spare, nodes, standing.node_sets, standing.segments
    )
    return {
        "nodes": worst.holders,
        "may_fail": worst.spare,
        "object": asdict(of_one.probability()),
        "any_object": asdict(of_any.probability()),
    }


def _correlated(may_fail: Mapping[str, int | None]) -> str:
    nodes, zones = may_fail["nodes"], may_fail["zones"]
    if nodes is None or zones is None:
        return "Nothing is stored yet that one event could take."
    what = [f"{nodes + 1} nodes", *([] if zones < 0 else [f"{zones + 1} zones"])]
    return (
        f"One event that destroys {' or '.join(what)} at once (fire, theft, a bad batch of disks, "
        "a defect of this software, a command given by mistake) may lose data; no figure here "
        "counts that."
    )

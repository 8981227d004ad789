"""Taking nodes out of the cluster: drain, undrain, remove.

A drained node gets no new shards, and repair moves those that it has. It can be removed when no
layout names it any more and it reports no shards; one that is lost, when its shards have been
rebuilt on others. What an upload that ends after that has stored there does not count (see
metadata/gone.py).
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from common.errors import Conflict
from common.units import format_bytes
from coordinator.config import LEAST_NODES
from coordinator.metadata import Wish
from coordinator.metadata.rows import NO_NODE
from coordinator.moves import destinations
from coordinator.node import Node, NodeState
from coordinator.placement import Target, survives
from coordinator.services import Services

_MAY_BE_LOST_SOON = (NodeState.SUSPECT, NodeState.DETACHED)


@dataclass(frozen=True, slots=True)
class DrainPlan:
    """What draining a node means. `shards` is what the node said last that it has, and
    `deletes_stopped` why it keeps them, if it does. `others` nodes can take its shards, and have
    `free_bytes`; a segment spread over them survives the loss of any `survives` of them, or of any
    `survives_zones` zones. `left_s` is an estimate. `objection` is why it is refused, if it is."""

    node: str
    node_id: str
    state: str
    wish: str
    shards: int | None
    deletes_stopped: str
    segments: int
    bytes: int
    left_s: float
    others: int
    free_bytes: int
    survives: int
    survives_zones: int
    objection: str = ""


class Draining:
    """Answers for one coordinator process."""

    def __init__(self, services: Services) -> None:
        self._services, self._metadata = services, services.metadata
        self._members = services.cluster.membership

    async def plan(self, node: Node) -> DrainPlan:
        """What is still to be moved from a node. The room for what others have to give away is
        not free."""
        segments, moved_bytes, promised_bytes = await self._loads(node.number)
        others = [t for t in self._members.targets(0).values() if t.number != node.number]
        free_bytes = sum(self._members.free_bytes(target.number) for target in others)
        nodes, zones = self._spread(others)
        k, rate = self._services.codec.k, self._services.config.repair_bytes_per_s
        wishes = await self._metadata.wishes()  # that of another process counts at once, too
        return DrainPlan(
            node=node.row.name,
            node_id=node.row.node_id,
            state=self._members.state(node).value,
            wish=wishes.get(node.number, Wish.ACTIVE).value,
            shards=node.report.shards if node.report else None,
            deletes_stopped=await self._metadata.deletes_stopped(),
            segments=segments,
            bytes=moved_bytes,
            left_s=round(moved_bytes * k / rate, 1),
            others=len(others),
            free_bytes=max(0, free_bytes - promised_bytes),
            survives=survives(nodes, k),
            survives_zones=survives(zones, k),
        )

    async def _loads(self, number: int) -> tuple[int, int, int]:
        """How many segments have shards on that node, the bytes of these shards, and those of the
        shards on other nodes that are to be left."""
        segments = moved_bytes = promised_bytes = 0
        leaving = set(filter(self._members.is_leaving, self._members.nodes)) - {number}
        async for load in self._metadata.mending.all_layout_loads():
            promised_bytes += load.shard_bytes * sum(map(leaving.__contains__, load.layout))
            if count := load.layout.count(number):
                segments += load.segments
                moved_bytes += count * load.shard_bytes
        return segments, moved_bytes, promised_bytes

    def _spread(self, others: Sequence[Target]) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """How repair would place a segment on these nodes: the layout, and the same with each
        node's zone as a number."""
        codec = self._services.codec
        zone_of = {target.number: target.zone for target in others}
        numbers = {zone: at for at, zone in enumerate(sorted(set(zone_of.values())), 1)}
        nowhere = [NO_NODE] * codec.n
        found = destinations(
            nowhere, range(codec.n), zone_of.__getitem__, others, codec.n - codec.k
        )
        return tuple(found.values()), tuple(numbers[zone_of[node]] for node in found.values())

    async def drain(self, name: str, force: bool, dry_run: bool) -> dict[str, Any]:
        """Begin. Raises Conflict if too few nodes would be left: for any PUT, for what lies on
        this one, or, unless `force`, for each shard to have a node of its own; or if the node was
        removed."""
        node = self._members.find(name)
        plan = await self.plan(node)
        self._refuse_removed(node, Wish(plan.wish))
        plan = replace(plan, objection=self._objection(plan, force))
        if not dry_run:
            if plan.objection:
                raise Conflict(plan.objection)
            await self._wish(node, Wish.DRAINING)
        return asdict(plan)

    def _objection(self, plan: DrainPlan, force: bool) -> str:
        if plan.others < LEAST_NODES:
            return f"{plan.others} other nodes can take shards, {LEAST_NODES} are needed"
        if plan.bytes > plan.free_bytes:
            need, have = format_bytes(plan.bytes), format_bytes(plan.free_bytes)
            return f"no room for {need} on the other nodes: {have} are free"
        if plan.others < self._services.codec.n and not force:
            return (
                f"on {plan.others} other nodes, segments would survive the loss of "
                f"{plan.survives} only; drain it all the same with --force"
            )
        return ""

    async def undrain(self, name: str) -> dict[str, Any]:
        """Take it back into service. What has been moved away stays where it is."""
        node = self._members.find(name)
        self._refuse_removed(node, node.row.wish)
        await self._wish(node, Wish.ACTIVE)
        return {"node": node.row.name, "state": self._members.state(node).value}

    async def remove(self, name: str, force: bool = False) -> dict[str, Any]:
        """For good. Raises Conflict unless it is drained or lost, and no segment needs it; and
        while it says itself that it has shards, unless `force`."""
        node = self._members.find(name)
        state = self._members.state(node)
        if state is not NodeState.REMOVED:
            if state is not NodeState.LOST and node.row.wish is not Wish.DRAINING:
                first = "wait until it is lost, or " if state in _MAY_BE_LOST_SOON else ""
                raise Conflict(f"{node.row.name} is {state}: {first}drain it first")
            plan = await self.plan(node)
            if plan.segments:
                raise Conflict(f"{plan.segments} segments still have shards on {node.row.name}")
            if not force and state is not NodeState.LOST:
                self._refuse_unless_empty(node)
            await self._wish(node, Wish.REMOVED)
        return {"node": node.row.name, "state": NodeState.REMOVED.value}

    @staticmethod
    def _refuse_unless_empty(node: Node) -> None:
        """An upload that has begun before the drain may still come to name what lies there."""
        if node.reachable and node.report and node.report.shards:
            raise Conflict(
                f"{node.row.name} still has {node.report.shards} shards: they are about to be "
                "deleted, or of an upload that goes on. Wait until it is drained; what such an "
                "upload has stored there is given up with --force"
            )

    async def _wish(self, node: Node, wish: Wish) -> None:
        await self._metadata.set_wish(node.number, wish)
        self._members.wish_changed(node.number, wish)  # other processes look once a second

    @staticmethod
    def _refuse_removed(node: Node, wish: Wish) -> None:
        if wish is Wish.REMOVED:
            raise Conflict(f"{node.row.name} was removed for good")

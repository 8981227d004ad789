"""Taking nodes out of the cluster: drain, undrain, remove.

A drained node gets no new shards, and repair moves those that it has. It can be removed when no
layout names it any more and it reports no shards; one that is lost, when its shards have been
rebuilt on others. What an upload that ends after that has stored there does not count (see
metadata/gone.py).
"""

from dataclasses import asdict, replace
from typing import Any

from common.errors import Conflict
from common.units import format_bytes
from coordinator.config import LEAST_NODES
from coordinator.drain_plan import DrainPlan, Planner
from coordinator.metadata import Wish
from coordinator.node import Node, NodeState
from coordinator.services import Services

_MAY_BE_LOST_SOON = (NodeState.SUSPECT, NodeState.DETACHED)


class Draining:
    """Answers for one coordinator process."""

    def __init__(self, services: Services) -> None:
        self._metadata = services.metadata
        self._members, self._planner = services.cluster.membership, Planner(services)

    async def plan(self, node: Node) -> DrainPlan:
        """What is still to be moved from a node, and what follows from that."""
        return await self._planner.plan(node)

    async def drain(self, name: str, force: bool, dry_run: bool) -> dict[str, Any]:
        """Begin. Raises Conflict if too few nodes would be left: for any PUT, for what lies on
        this one, or, unless `force`, for each shard to have a node of its own and for as many zones
        to be lost as now; or if the node was removed."""
        node = self._members.find(name)
        plan = await self.plan(node)
        self._refuse_removed(node, Wish(plan.wish))
        plan = replace(plan, objection=self._objection(plan, force))
        if not dry_run:
            if plan.objection:
                raise Conflict(plan.objection)
            await self._wish(node, Wish.DRAINING)
        return asdict(plan)

    @staticmethod
    def _objection(plan: DrainPlan, force: bool) -> str:
        if plan.others < LEAST_NODES:
            return f"{plan.others} other nodes can take shards, {LEAST_NODES} are needed"
        if plan.bytes > plan.free_bytes:
            need, have = format_bytes(plan.bytes), format_bytes(plan.free_bytes)
            return f"no room for {need} on the other nodes: {have} are free"
        if plan.warning and not force:
            return f"{plan.warning}; drain it all the same with --force"
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
        if node.reachable and (report := node.report) and report.shards:
            keeps = f"it can delete nothing ({report.failure})" if report.failure else ""
            raise Conflict(
                f"{node.row.name} still has {report.shards} shards: they are about to be deleted, "
                f"or of an upload that goes on. {keeps or 'Wait until it is drained'}; what such "
                "an upload has stored there is given up with --force"
            )

    async def _wish(self, node: Node, wish: Wish) -> None:
        await self._metadata.set_wish(node.number, wish)
        self._members.wish_changed(node.number, wish)  # other processes look once a second

    @staticmethod
    def _refuse_removed(node: Node, wish: Wish) -> None:
        if wish is Wish.REMOVED:
            raise Conflict(f"{node.row.name} was removed for good")

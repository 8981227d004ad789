"""The nodes of the cluster as this process sees them: who reported when, who is reachable.

A node reports to one process; the others find its report in the database within a second.
"""

import asyncio
import logging
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

from common.errors import Conflict, NotFound, SixfoldError, WrongCluster
from common.membership import NodeReport, ReportAnswer
from coordinator.attention import Attention
from coordinator.metadata import IncomingReport, Metadata, NodeRow, SharedReport, Wish
from coordinator.node import Node, NodeState
from coordinator.placement import Target
from coordinator.ring import Ring, RingNode
from coordinator.wanted import SWEEP, want_pass

log = logging.getLogger(__name__)

LOOK_S = 1.0
OVERLAP_S = 2  # a report that is committed late may bear a time before the last look
ZONES_FRESH_S = 1.0


@dataclass(slots=True)
class Membership:
    """Registers nodes, judges their state, and offers the active ones to placement."""

    metadata: Metadata
    clock: Callable[[], float]  # monotonic seconds
    suspect_after_s: float
    lost_after_s: float
    on_report: Callable[[Node], None] = lambda node: None
    on_removed: Callable[[int], None] = lambda number: None
    nodes: dict[int, Node] = field(default_factory=dict)
    _loaded: Mapping[int, int] = field(default_factory=dict)  # versions of reports, at start
    _looked_s: int = 0  # when it last looked, by the database's clock
    _ring: Ring | None = None
    _zone_sizes: Mapping[str, int] = field(default_factory=dict)
    _zones_counted_at_s: float = float("-inf")
    _attention: Attention = field(init=False)

    def __post_init__(self) -> None:
        self._attention = Attention(self.clock, self.lost_after_s / 2)

    async def load(self) -> None:
        """Read the registered nodes and their last reports; their silence counts from now."""
        self.nodes = {row.number: Node(row) for row in await self.metadata.nodes()}
        await self.look()
        self._loaded = {node.number: node.version for node in self.nodes.values()}

    async def report(self, report: NodeReport, nonce: bytes) -> ReportAnswer:
        """A node's first word or its heartbeat; `nonce` is that of its signature.

        Raises WrongCluster for a node of another cluster, Conflict for a second process that
        claims to be a node that is alive, Unauthorized for a replay.
        """
        if report.cluster_id not in ("", self.metadata.cluster_id):
            raise WrongCluster(
                f"node {report.name} belongs to cluster {report.cluster_id}, "
                f"this is {self.metadata.cluster_id}"
            )
        taken = await self.metadata.save_report(self._incoming(report, nonce))
        node = self._heard(taken.node, taken.version, report, 0)
        if taken.outdated:
            log.warning("%s may lack shards: its directory seems to be an old one", report.name)
            await want_pass(self.metadata, SWEEP)
        self.on_report(node)
        cluster_id = self.metadata.cluster_id
        return ReportAnswer(cluster_id, node.number, taken.epoch, taken.may_delete)

    async def follow(self) -> None:
        """Looks for ever for what nodes reported to other processes."""
        while True:
            await asyncio.sleep(LOOK_S)
            try:
                await self.look()
            except SixfoldError as error:
                log.warning("reports to other processes: %s", error)

    async def look(self) -> None:
        """Take over what nodes have reported to other processes since the last look, and what
        operators want of nodes and these are called, also of those that are silent."""
        known = {node.number: node.version for node in self.nodes.values()}
        now_s, found = await self.metadata.reports_since(self._looked_s - OVERLAP_S, known)
        self._looked_s = now_s
        self._attention.look()
        for shared in found:
            self._take_over(shared)
        rows = {row.number: row for row in await self.metadata.nodes()}
        for number, node in self.nodes.items():
            if (row := rows.get(number)) is not None:
                node.row = replace(node.row, name=row.name)
                self.wish_changed(number, row.wish)
            if node.row.wish is Wish.REMOVED:
                self.on_removed(number)
            if node.reachable:
                node.reached_at_s = self.clock()
            self._tell(node)

    def _tell(self, node: Node) -> None:
        """What is new, once."""
        trouble = self.trouble(node)
        if trouble and trouble != node.trouble:
            log.error("%s: %s", node.row.name, trouble)
        node.trouble = trouble

    def _take_over(self, shared: SharedReport) -> None:
        """The process that it came to has looked whether it is an impostor's."""
        node = self._heard(shared.node, shared.version, shared.report, shared.age_s)
        if shared.age_s < self.suspect_after_s:  # else it may be elsewhere by now
            self.on_report(node)

    def _heard(self, row: NodeRow, version: int, report: NodeReport, age_s: float) -> Node:
        node = self.nodes.get(row.number)
        if node is None:
            log.info(
                "%s is %s in zone %s, %d in layouts", row.name, row.node_id, row.zone, row.number
            )
            node = self.nodes[row.number] = Node(row, reached_at_s=self.clock())
        if node.version >= version:
            return node  # a younger one came by the other way meanwhile
        if node.report is None or node.report.capacity_bytes != report.capacity_bytes:
            self._ring = None
        node.row, node.version, node.report, node.sent_bytes = row, version, report, 0
        node.reported_at_s = self.clock() - age_s
        if not report.detached:
            node.detached_at_s = float("inf")
        elif node.detached_at_s == float("inf"):
            node.detached_at_s = self.clock()
        return node

    def _incoming(self, report: NodeReport, nonce: bytes) -> IncomingReport:
        """With what is known of the process that this node was so far."""
        node = next((n for n in self.nodes.values() if n.row.node_id == report.node_id), None)
        gone = node.report.instance if node and node.report and not self._alive(node) else ""
        return IncomingReport(report, nonce, gone, int(self.suspect_after_s))

    def _alive(self, node: Node) -> bool:
        return self.state(node) in (
            NodeState.ACTIVE,
            NodeState.READ_ONLY,
            NodeState.DETACHED,
            NodeState.DRAINING,
            NodeState.DRAINED,
        )

    def state(self, node: Node) -> NodeState:
        if node.row.wish is Wish.REMOVED:
            return NodeState.REMOVED
        if self._useless_s(node) >= self.lost_after_s and not self._attention.is_blind():
            return NodeState.LOST
        if self._is_silent(node) or not node.reachable or node.report is None:
            return NodeState.SUSPECT
        if node.report.detached:
            return NodeState.DETACHED
        if node.row.wish is Wish.DRAINING:
            return NodeState.DRAINING if node.report.shards else NodeState.DRAINED
        return NodeState.READ_ONLY if node.report.failure else NodeState.ACTIVE

    def _useless_s(self, node: Node) -> float:
        """For how long it has been silent, out of reach, or without its directory. A node that
        still reports but cannot be reached is of no more use than a silent one."""
        since = self._attention.since
        unreached_s = 0.0 if node.reachable else since(node.reached_at_s)
        return max(since(node.reported_at_s), since(node.detached_at_s), unreached_s)

    def _is_silent(self, node: Node) -> bool:
        return self._attention.since(node.reported_at_s) >= self.suspect_after_s

    def count(self, state: NodeState) -> int:
        """How many nodes are in that state."""
        return sum(self.state(node) is state for node in self.nodes.values())

    def silent_s(self, node: Node) -> float | None:
        """Seconds since the node's last report, to whichever process; None if there was none."""
        return None if node.report is None else self.clock() - node.reported_at_s

    @property
    def ring(self) -> Ring:
        """All nodes that have reported, whatever their state: states change more often than
        the ring should."""
        if self._ring is None:
            self._ring = Ring(
                RingNode(node.number, node.row.node_id, node.report.capacity_bytes)
                for node in self.nodes.values()
                if node.report is not None
            )
        return self._ring

    def target(self, shard_bytes: int, number: int) -> Target | None:
        """That node, if it can take a shard of that size now."""
        node = self.nodes.get(number)
        if (
            node is None
            or self.state(node) is not NodeState.ACTIVE
            or self.free_bytes(number) <= shard_bytes
        ):
            return None
        return Target(number, node.row.zone, node.fill())

    def targets(self, shard_bytes: int) -> dict[int, Target]:
        """All nodes that can. It looks at every node: not for each placement."""
        judged = {number: self.target(shard_bytes, number) for number in self.nodes}
        return {number: target for number, target in judged.items() if target}

    def zone_sizes(self, shard_bytes: int) -> Mapping[str, int]:
        """How many targets each zone has; up to a second old, since it looks at every node."""
        if self.clock() - self._zones_counted_at_s >= ZONES_FRESH_S:
            self._zones_counted_at_s = self.clock()
            self._zone_sizes = Counter(t.zone for t in self.targets(shard_bytes).values())
        return self._zone_sizes

    def free_bytes(self, number: int) -> int:
        """What a node that has reported can still take."""
        node = self.nodes[number]
        assert node.report is not None
        return max(0, node.report.free_bytes - node.sent_bytes)

    def is_readable(self, number: int) -> bool:
        """Whether asking this node for a shard makes sense."""
        node = self.nodes.get(number)
        return node is not None and node.reachable and node.row.wish is not Wish.REMOVED

    def is_lasting(self, number: int) -> bool:
        """Whether what this node holds can be read, and will be when it has been restarted."""
        report = self.nodes[number].report if self.is_readable(number) else None
        return report is not None and not report.detached

    def is_gone(self, number: int) -> bool:
        """Whether its shards will not come back, nor can be read: it was removed, or it is lost. Of
        a node that this process has not heard of yet, nothing is known."""
        node = self.nodes.get(number)
        state = None if node is None else self.state(node)
        lost = state is NodeState.LOST and not self.is_readable(number)
        return lost or state is NodeState.REMOVED

    def is_leaving(self, number: int) -> bool:
        """Whether its shards should be elsewhere, be it reachable or not."""
        node = self.nodes.get(number)
        if node is None:
            return False
        return node.row.wish is Wish.DRAINING or self.state(node) is NodeState.LOST

    def wish_changed(self, number: int, wish: Wish) -> None:
        """Known at once, not at the next look."""
        node = self.nodes[number]
        if node.row.wish is not wish:
            node.row = replace(node.row, wish=wish)

    def find(self, name: str) -> Node:
        """The node of that name or id; of a name that was given again, the one that is still a
        member, or the last. Not by number: 3 may not be node-3. Raises NotFound, Conflict."""
        found = [node for node in self.nodes.values() if name in (node.row.name, node.row.node_id)]
        if not found:
            raise NotFound(f"no node is called {name!r}: sixfold nodes shows their whole names")
        found = [node for node in found if node.row.wish is not Wish.REMOVED] or found[-1:]
        if len(found) > 1:
            ids = ", ".join(node.row.node_id for node in found)
            raise Conflict(f"{len(found)} nodes are called {name!r}: use the id, of {ids}")
        return found[0]

    def has_reported(self, number: int) -> bool:
        """Whether this node has reported, to whichever process, since this one began: then it has
        been asked whether it knows a younger database."""
        node = self.nodes.get(number)
        return node is not None and node.version > self._loaded.get(number, 0)

    def all_have_reported(self) -> bool:
        """All that can be reached, of which there is one; of those that are lost nobody waits for
        a word."""
        reachable = [node for node in self.nodes.values() if node.reachable]
        heard = any(self.has_reported(node.number) for node in reachable)
        return heard and not any(map(self.is_waited_for, reachable))

    def is_waited_for(self, node: Node) -> bool:
        """Whether it may have to tell of a younger database, so that nothing is deleted before."""
        past = self.state(node) in (NodeState.LOST, NodeState.REMOVED)
        return node.reachable and not past and not self.has_reported(node.number)

    def trouble(self, node: Node) -> str:
        """What an operator should look after, in words; empty if nothing."""
        report, silent = node.report, self._is_silent(node)
        if silent and self.is_waited_for(node):
            return "it does not report: until it does, or is lost, nothing is collected or swept"
        if report is None or silent or node.row.wish is Wish.REMOVED:
            return ""
        if not node.reachable and self._attention.since(node.reached_at_s) >= self.suspect_after_s:
            return f"it reports, but {report.data_host}:{report.data_port} cannot be reached"
        return report.failure

    def zone_of(self, number: int) -> str:
        """Empty for a node that nobody knows."""
        node = self.nodes.get(number)
        return node.row.zone if node is not None else ""

    def count_sent(self, number: int, shard_bytes: int) -> None:
        if node := self.nodes.get(number):
            node.sent_bytes += shard_bytes

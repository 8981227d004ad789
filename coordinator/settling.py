"""Waits a moment for nodes that come back, before uploads are placed without them.

When a coordinator has begun, nodes come back one by one, within a heartbeat. When it was paused, or
cut off for a moment, the lanes to many nodes break at once, and are soon there again. An upload
that did not wait for them would put several shards on each of the few that are there; and of bytes
that are stored it would find too few shards, and put others, which lie worse, in their place.
"""

import asyncio
from collections.abc import Iterable

from common.membership import HEARTBEAT_S
from coordinator.membership import Membership
from coordinator.node import Node, NodeState

SETTLE_S = HEARTBEAT_S + 1.0
_LOOK_S = 0.02


class Settling:
    """Over when all nodes are back that are awaited, or after `SETTLE_S`. At first those are
    awaited that reported before they would have been lost. To be made when membership has been
    loaded."""

    def __init__(self, membership: Membership, k: int) -> None:
        self._members, self._k = membership, k
        self._over = asyncio.Event()
        self._begin(filter(self._may_come, membership.nodes.values()))

    @property
    def is_over(self) -> bool:
        return self._over.is_set()

    async def wait(self) -> None:
        await self._over.wait()

    async def close(self) -> None:
        """Nothing is awaited any more: the nodes go one by one."""
        self._over.clear()
        self._task.cancel()
        await asyncio.wait([self._task])

    def look(self) -> None:
        """A node has gone out of reach. If that leaves too few to read anything, those are awaited
        that were there a moment ago."""
        nodes = self._members.nodes.values()
        if self.is_over and sum(node.reachable for node in nodes) < self._k:
            since_s = self._members.clock() - SETTLE_S
            self._over.clear()
            self._begin(node for node in nodes if node.reached_at_s > since_s)

    def _begin(self, awaited: Iterable[Node]) -> None:
        self._task = asyncio.create_task(self._run(list(awaited)), name="settling")

    async def _run(self, awaited: list[Node]) -> None:
        for _ in range(round(SETTLE_S / _LOOK_S)):
            if all(map(self._is_back, awaited)):
                break
            await asyncio.sleep(_LOOK_S)
        self._over.set()

    def _may_come(self, node: Node) -> bool:
        silent_s = self._members.silent_s(node)
        recent = silent_s is not None and silent_s < self._members.lost_after_s
        return recent and self._members.state(node) is not NodeState.REMOVED

    def _is_back(self, node: Node) -> bool:
        return self._members.state(node) is not NodeState.SUSPECT

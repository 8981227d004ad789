"""A coordinator that has just begun waits a moment for the nodes that it knows.

They come back one by one, within a heartbeat. An upload that did not wait for them would put
several shards on each of the few that are there already; and of bytes that are stored it would find
too few shards, and put others, which lie worse, in their place.
"""

import asyncio

from common.membership import HEARTBEAT_S
from coordinator.membership import Membership
from coordinator.node import Node, NodeState

SETTLE_S = HEARTBEAT_S + 1.0
_LOOK_S = 0.02


class Settling:
    """Over when all nodes are back that reported before they would have been lost, or after
    `SETTLE_S`. To be made when membership has been loaded."""

    def __init__(self, membership: Membership) -> None:
        self._members, self._over = membership, asyncio.Event()
        self._awaited = [node for node in membership.nodes.values() if self._may_come(node)]

    @property
    def is_over(self) -> bool:
        return self._over.is_set()

    async def wait(self) -> None:
        await self._over.wait()

    async def run(self) -> None:
        """To the end."""
        for _ in range(round(SETTLE_S / _LOOK_S)):
            if all(map(self._is_back, self._awaited)):
                break
            await asyncio.sleep(_LOOK_S)
        self._over.set()

    def _may_come(self, node: Node) -> bool:
        silent_s = self._members.silent_s(node)
        recent = silent_s is not None and silent_s < self._members.lost_after_s
        return recent and self._members.state(node) is not NodeState.REMOVED

    def _is_back(self, node: Node) -> bool:
        return self._members.state(node) is not NodeState.SUSPECT

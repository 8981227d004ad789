"""The nodes' own scrubs, each of its own disk: begun together, and how far each is."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import asdict
from typing import Any

from common.errors import SixfoldError
from coordinator.cluster import Cluster
from coordinator.node import Node, NodeState
from coordinator.remote_store import RemoteStore

DEADLINE_S = 5.0


class NodeScrubs:
    """Asks all nodes at once; one that does not answer is an entry with an error."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster

    async def states(self) -> list[dict[str, Any]]:
        """As JSON, in order of the nodes' numbers: the report of each, or why there is none."""

        async def state(store: RemoteStore) -> dict[str, Any]:
            return asdict(await store.scrub_state())

        return await self._each(state)

    async def start(self) -> list[dict[str, Any]]:
        """A pass begins on each node; for each, how many it has done before."""

        async def begin(store: RemoteStore) -> dict[str, Any]:
            passes = (await store.scrub_state()).passes
            await store.start_scrub()
            return {"passes": passes}

        return await self._each(begin)

    async def _each(
        self, ask: Callable[[RemoteStore], Awaitable[dict[str, Any]]]
    ) -> list[dict[str, Any]]:
        members = self._cluster.membership
        nodes = [n for n in members.nodes.values() if members.state(n) is not NodeState.REMOVED]
        in_order = sorted(nodes, key=lambda node: node.number)
        return await asyncio.gather(*(self._one(node, ask) for node in in_order))

    async def _one(
        self, node: Node, ask: Callable[[RemoteStore], Awaitable[dict[str, Any]]]
    ) -> dict[str, Any]:
        said: dict[str, Any] = {"number": node.number, "name": node.row.name}
        try:
            async with asyncio.timeout(DEADLINE_S):
                return said | await ask(self._cluster.store(node.number))
        except TimeoutError:
            return said | {"error": "no answer in time"}
        except SixfoldError as error:
            return said | {"error": str(error)}

"""Waits until nodes are part of the cluster."""

import asyncio
from collections.abc import Callable, Collection

from sixfold.answers import ClusterStat
from sixfold.client import Client
from sixfold.processes import POLL_S

NOT_JOINED = ("suspect", "lost", "removed")  # another of that name may have been removed


async def until_joined(
    url: str, names: Callable[[], Collection[str]], limit_s: float, check: Callable[[], None]
) -> ClusterStat:
    """Until the coordinator hears and reaches every node of these names, asked for at each look.

    Raises TimeoutError, which tells who is missing, and whatever `check` raises, which is called
    at each look.
    """
    missing: set[str] = set()
    try:
        async with Client(url) as client, asyncio.timeout(limit_s):
            while True:
                check()
                cluster = await client.nodes()
                joined = {node.name for node in cluster.nodes if node.state not in NOT_JOINED}
                missing = set(names()) - joined
                if not missing:
                    return cluster
                await asyncio.sleep(POLL_S)
    except TimeoutError:
        raise TimeoutError(f"{', '.join(sorted(missing))} not joined") from None

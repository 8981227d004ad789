"""Waits until nodes are part of the cluster."""

import asyncio
from collections.abc import Callable, Collection

from sixfold.answers import ClusterStat
from sixfold.client import Client
from sixfold.processes import POLL_S

SILENT_STATES = ("suspect", "lost")


async def until_joined(
    url: str, names: Collection[str], limit_s: float, check: Callable[[], None]
) -> ClusterStat:
    """Until the coordinator hears and reaches every node of these names.

    Raises TimeoutError, which tells who is missing, and whatever `check` raises, which is called
    at each look.
    """
    missing = set(names)
    try:
        async with Client(url) as client, asyncio.timeout(limit_s):
            while True:
                cluster = await client.nodes()
                joined = {node.name for node in cluster.nodes if node.state not in SILENT_STATES}
                missing = set(names) - joined
                if not missing:
                    return cluster
                check()
                await asyncio.sleep(POLL_S)
    except TimeoutError:
        raise TimeoutError(f"{', '.join(sorted(missing))} not joined") from None

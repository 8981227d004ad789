"""The part of the client that asks a coordinator what operators want to know."""

from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Collection
from contextlib import AbstractAsyncContextManager
from typing import Any
from urllib.parse import quote

import aiohttp

from common.errors import NotFound
from common.ids import ContentId
from sixfold.answers import json_of
from sixfold.transfer import Silence

VERIFY_S = 6 * 3600.0


class AdminClient(ABC):
    """What `Client` can ask of `/-/admin/`. The answers are as the coordinator gives them, JSON:
    they are there to be shown."""

    @abstractmethod
    def _request(
        self,
        method: str,
        path: str,
        silence: Silence | None = None,
        accept: Collection[int] = (),
        **options: Any,
    ) -> AbstractAsyncContextManager[aiohttp.ClientResponse]: ...

    async def durability(self, afr: float | None = None) -> dict[str, Any]:
        """What may fail now, and how likely loss is if `afr` of the nodes fail in a year."""
        query = "" if afr is None else f"?afr={afr!r}"
        return await self._asked("GET", f"/-/admin/durability{query}")

    async def unreadable(self) -> AsyncIterator[dict[str, Any]]:
        """The segments that repair cannot mend, once for each content that needs them."""
        after: str | None = ""
        while after is not None:
            page = await self._asked("GET", f"/-/admin/unreadable?after={after}")
            for row in page["unreadable"]:
                yield row
            after = page["next"]

    async def jobs(self) -> dict[str, Any]:
        """The background jobs: who does each, and what it says of itself."""
        return await self._asked("GET", "/-/admin/jobs")

    async def drain(self, node: str, force: bool, dry_run: bool) -> dict[str, Any]:
        """Move everything away from a node; what that means, which a dry run only tells."""
        query = f"force={int(force)}&dry_run={int(dry_run)}"
        return await self._asked("POST", f"{_path_of(node)}/drain?{query}")

    async def undrain(self, node: str) -> dict[str, Any]:
        """Take a node back into service."""
        return await self._asked("POST", f"{_path_of(node)}/undrain")

    async def remove(self, node: str, force: bool = False) -> dict[str, Any]:
        """Forget a node for good; `force` also if it has shards that no segment names."""
        return await self._asked("POST", f"{_path_of(node)}/remove?force={int(force)}")

    async def stop_deletes(self, reason: str) -> dict[str, Any]:
        """Delete nothing on nodes any more; the reason that stands."""
        return await self._asked("POST", "/-/admin/deletes/stop", json={"reason": reason})

    async def allow_deletes(self) -> dict[str, Any]:
        """Delete again; why it was stopped."""
        return await self._asked("POST", "/-/admin/deletes/allow")

    async def explain(self, id_: ContentId) -> dict[str, Any]:
        """Where every shard of a content is, its state, and what may still fail."""
        said = await self._asked("GET", f"/v1/blobs/{id_}/explain")
        while said["next"] is not None:
            more = await self._asked("GET", f"/v1/blobs/{id_}/explain?first={said['next']}")
            said["segments"] += more["segments"]
            said["next"] = more["next"]
        return said

    async def verify(self, id_: ContentId) -> dict[str, Any]:
        """Read and check all shards of a content, which takes as long as it takes: what is bad."""
        return await self._asked("POST", f"/-/admin/verify/{id_}", Silence(VERIFY_S))

    async def start_scrub(self) -> dict[str, Any]:
        """Ask for a pass over all stripes, and on each node: through once the status has served
        the number `wanted`, and counts more passes of each node."""
        return await self._asked("POST", "/-/admin/scrub")

    async def scrub_status(self) -> dict[str, Any]:
        """How far the passes are."""
        return await self._asked("GET", "/-/admin/scrub")

    async def _asked(
        self, method: str, path: str, silence: Silence | None = None, **options: Any
    ) -> dict[str, Any]:
        async with self._request(method, path, silence, **options) as response:
            said: dict[str, Any] = await json_of(response)
            return said


def _path_of(node: str) -> str:
    if node in ("", ".", ".."):  # which a URL does not keep
        raise NotFound(f"no node is called {node!r}")
    return f"/-/admin/nodes/{quote(node, safe='')}"

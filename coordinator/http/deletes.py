"""`/-/admin/deletes`: whether anything may be deleted on nodes, and the operator's word on it."""

from typing import Any

from aiohttp import web

from common.errors import BadRequest
from coordinator.metadata import Metadata

MAX_REASON = 500  # characters


class DeleteHandlers:
    """The handlers, and the routes that lead to them."""

    def __init__(self, metadata: Metadata) -> None:
        self._metadata = metadata

    def routes(self) -> list[web.RouteDef]:
        return [
            web.get("/-/admin/deletes", self.show),
            web.post("/-/admin/deletes/allow", self.allow),
            web.post("/-/admin/deletes/stop", self.stop),
        ]

    async def show(self, request: web.Request) -> web.Response:
        """Why nothing may be deleted; empty if it may."""
        return web.json_response({"deletes_stopped": await self._metadata.deletes_stopped()})

    async def allow(self, request: web.Request) -> web.Response:
        """Go on deleting. `was` is why it was stopped, empty if it was not."""
        was = await self._metadata.deletes_stopped()
        await self._metadata.allow_deletes()
        return web.json_response({"deletes_stopped": "", "was": was})

    async def stop(self, request: web.Request) -> web.Response:
        """Delete nothing any more: `{"reason": …}`. Reasons that are there stay."""
        await self._metadata.stop_deletes(_reason(await _json(request)))
        return await self.show(request)


async def _json(request: web.Request) -> Any:
    try:
        return await request.json()
    except ValueError:
        raise BadRequest("need a JSON object") from None


def _reason(said: Any) -> str:
    reason = said.get("reason") if isinstance(said, dict) else None
    if not isinstance(reason, str) or not 0 < len(reason.strip()) <= MAX_REASON:
        raise BadRequest(f"reason: need 1 to {MAX_REASON} characters")
    return reason.strip()

"""`/-/admin/nodes/…`: what operators do with one node."""

from aiohttp import web

from common.errors import BadRequest
from coordinator.draining import Draining


class DrainHandlers:
    """The handlers, and the routes that lead to them. `{node}` is a name or an id."""

    def __init__(self, draining: Draining) -> None:
        self._draining = draining

    def routes(self) -> list[web.RouteDef]:
        return [
            web.post("/-/admin/nodes/{node}/drain", self.drain),
            web.post("/-/admin/nodes/{node}/undrain", self.undrain),
            web.post("/-/admin/nodes/{node}/remove", self.remove),
        ]

    async def drain(self, request: web.Request) -> web.Response:
        """Begin to move all shards to other nodes: `?dry_run=1` only tells, `?force=1` also if
        shards must share nodes then."""
        force, dry_run = _flag(request, "force"), _flag(request, "dry_run")
        plan = await self._draining.drain(request.match_info["node"], force, dry_run)
        return web.json_response(plan)

    async def undrain(self, request: web.Request) -> web.Response:
        """Take the node back into service."""
        return web.json_response(await self._draining.undrain(request.match_info["node"]))

    async def remove(self, request: web.Request) -> web.Response:
        """Forget the node for good: it must be drained, or lost and made up for; `?force=1` also if
        it has shards that no segment names."""
        force = _flag(request, "force")
        return web.json_response(await self._draining.remove(request.match_info["node"], force))


def _flag(request: web.Request, name: str) -> bool:
    text = request.query.get(name, "0")
    if text not in ("0", "1"):
        raise BadRequest(f"{name}: 0 or 1, not {text[:20]!r}")
    return text == "1"

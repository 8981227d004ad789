"""The routes for upkeep: what is in quarantine, and scrub. For holders of the cluster secret."""

from collections.abc import Callable
from functools import partial

from aiohttp import web

from common.ids import ShardAddress
from common.upkeep import addresses_from_json, orphans_from_json
from shardd.store import VolumeStore
from shardd.upkeep import Upkeep


class UpkeepRoutes:
    """Handlers, to be added to an application that guards them."""

    def __init__(
        self, store: Callable[[], VolumeStore], limit: Callable[[web.Request], int]
    ) -> None:
        """`store` raises Unavailable while there is none; `limit` gives how many lines a request
        wants, or raises BadRequest."""
        self._store, self._limit = store, limit

    def _upkeep(self) -> Upkeep:
        return self._store().upkeep

    def add_to(self, router: web.UrlDispatcher) -> None:
        router.add_get("/v1/quarantine", self._list)
        router.add_post("/v1/quarantine", self._set_aside)
        router.add_post("/v1/quarantine/restore", self._restore)
        router.add_delete("/v1/quarantine/{address}", self._drop)
        router.add_get("/v1/scrub", self._scrub_report)
        router.add_post("/v1/scrub", self._scrub)

    async def _list(self, request: web.Request) -> web.Response:
        after = request.query.get("after")
        start = ShardAddress.parse(after) if after else None
        page = self._upkeep().quarantine.page(start, self._limit(request))
        lines = b"".join(kept.to_json() + b"\n" for kept in page)
        return web.Response(body=lines, content_type="application/x-ndjson")

    async def _set_aside(self, request: web.Request) -> web.Response:
        """Those who decided it before something that came already are refused (shardd/fence.py),
        or that comes while they wait and are copied."""
        epoch, addresses = orphans_from_json(await request.read())
        store = self._store()
        check = partial(store.fence.check, epoch)
        check()
        moved = await store.upkeep.quarantine.set_aside(addresses, check)
        return web.json_response({"moved": moved})

    async def _restore(self, request: web.Request) -> web.Response:
        addresses = addresses_from_json(await request.read())
        return web.json_response({"restored": await self._upkeep().quarantine.restore(addresses)})

    async def _drop(self, request: web.Request) -> web.Response:
        address = ShardAddress.parse(request.match_info["address"])
        await self._upkeep().quarantine.drop(address)
        return web.Response(status=204)

    async def _scrub_report(self, request: web.Request) -> web.Response:
        report = self._upkeep().scrub_report()
        return web.Response(body=report.to_json(), content_type="application/json")

    async def _scrub(self, request: web.Request) -> web.Response:
        self._upkeep().scrubber.start()
        return web.Response(status=202)

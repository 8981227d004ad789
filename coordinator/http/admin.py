"""`/-/admin/`: what operators do to a cluster."""

from dataclasses import asdict

from aiohttp import web

from common.errors import Conflict
from coordinator.cluster import Cluster
from coordinator.metadata import Metadata
from coordinator.read_path import ReadPath
from coordinator.rebuild import Rebuild


class AdminHandlers:
    """The handlers, and the routes that lead to them."""

    def __init__(self, metadata: Metadata, cluster: Cluster, reads: ReadPath) -> None:
        self._metadata, self._cluster, self._reads = metadata, cluster, reads
        self._rebuilding = False

    def routes(self) -> list[web.RouteDef]:
        return [web.post("/-/admin/rebuild-metadata", self.rebuild)]

    async def rebuild(self, request: web.Request) -> web.Response:
        """Fill the database from the nodes; answers when that is done, with what was found."""
        if self._rebuilding:
            raise Conflict("the metadata is being rebuilt already")
        self._rebuilding = True
        try:
            report = await Rebuild(self._metadata, self._cluster, self._reads).run()
        finally:
            self._rebuilding = False
        return web.json_response(asdict(report))

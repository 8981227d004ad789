"""Probes, the nodes' reports, and the list of nodes."""

import time

from aiohttp import web

from common.auth import HEADER, ClusterSecret
from common.codec import Codec
from common.membership import REPORT_PATH, NodeReport
from coordinator.config import LEAST_NODES
from coordinator.membership import Membership
from coordinator.metadata import Metadata
from coordinator.node import Node, NodeState
from coordinator.settling import Settling

TAKE_NOTHING = (NodeState.READ_ONLY, NodeState.DETACHED)  # but can be read


class NodeHandlers:
    """The handlers, and the routes that lead to them."""

    def __init__(
        self,
        membership: Membership,
        metadata: Metadata,
        secret: ClusterSecret,
        codec: Codec,
        settling: Settling,
    ) -> None:
        self._membership, self._metadata = membership, metadata
        self._secret, self._codec, self._settling = secret, codec, settling

    def routes(self) -> list[web.RouteDef]:
        return [
            web.get("/-/live", self.live),
            web.get("/-/ready", self.ready),
            web.post(REPORT_PATH, self.report),
            web.get("/-/admin/nodes", self.nodes),
        ]

    async def live(self, request: web.Request) -> web.Response:
        """The process runs and its event loop turns."""
        return web.json_response({"live": True})

    async def ready(self, request: web.Request) -> web.Response:
        """PUTs can be durable: the database answers and enough nodes are active. At the beginning
        not before the others had a moment to come back."""
        stopped = await self._metadata.deletes_stopped()
        active = self._membership.count(NodeState.ACTIVE)
        readable = active + sum(map(self._membership.count, TAKE_NOTHING))
        ready = active >= LEAST_NODES and self._settling.is_over
        body = {
            "ready": ready,
            "nodes_active": active,
            "nodes_readable": readable,
            "deletes_stopped": stopped,
        }
        return web.json_response(body, status=200 if ready else 503)

    async def report(self, request: web.Request) -> web.Response:
        """A node joins, or its heartbeat. Signed with the cluster secret."""
        body = await request.read()  # bounded by the application's client_max_size
        now_s = time.time()
        signature = request.headers.get(HEADER, "")
        nonce = self._secret.verify(signature, request.method, request.path_qs, body, now_s)
        spent = nonce.encode(errors="surrogateescape")  # as it came
        answer = await self._membership.report(NodeReport.from_json(body), spent)
        return web.Response(body=answer.to_json(), content_type="application/json")

    async def nodes(self, request: web.Request) -> web.Response:
        nodes = sorted(self._membership.nodes.values(), key=lambda node: node.number)
        return web.json_response(
            {
                "cluster_id": self._metadata.cluster_id,
                "codec": self._codec.backend_name,
                "deletes_stopped": await self._metadata.deletes_stopped(),
                "nodes": [self._described(node) for node in nodes],
            }
        )

    def _described(self, node: Node) -> dict[str, object]:
        report, silent_s = node.report, self._membership.silent_s(node)
        return {
            "number": node.number,
            "name": node.row.name,
            "node_id": node.row.node_id,
            "zone": node.row.zone,
            "state": self._membership.state(node).value,
            "wish": node.row.wish.value,
            "http_url": report.http_url if report else None,
            "data": f"{report.data_host}:{report.data_port}" if report else None,
            "capacity_bytes": report.capacity_bytes if report else None,
            "used_bytes": report.used_bytes if report else None,
            "free_bytes": report.free_bytes if report else None,
            "shards": report.shards if report else None,
            "last_seen_s": None if silent_s is None else round(silent_s, 3),
            "failure": self._membership.trouble(node) if report else None,
        }

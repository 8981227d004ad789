"""The blobs API in memory, with a switch for each way to misbehave: what a client must survive."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from aiohttp import web
from aiohttp.test_utils import TestServer
from blake3 import blake3

OTHER_ID = "f" * 64


@dataclass
class FakeCoordinator:
    """`headers` are those of the last request."""

    contents: dict[str, bytes] = field(default_factory=dict)
    headers: dict[str, str] = field(default_factory=dict)
    bodies: int = 0
    durability: str = "9/9; survives=3"
    wrong_id: bool = False
    truncate: bool = False
    flip: bool = False
    hang: bool = False
    lose_answers: int = 0  # of so many requests: the work is done, and the connection ends
    garbage: bool = False
    refuse: tuple[int, str, str] | None = None  # status, code, message

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[str]:
        """Its URL."""
        async with TestServer(self._app()) as server:
            yield str(server.make_url("/"))

    def _app(self) -> web.Application:
        app = web.Application(client_max_size=0, middlewares=[self._misbehave])
        expect = {"expect_handler": self._expect}
        app.router.add_put("/v1/blobs", self.put, **expect)
        app.router.add_get("/v1/blobs/{id}", self.get)
        app.router.add_delete("/v1/blobs/{id}", self.delete)
        app.router.add_get("/-/admin/nodes", self.nodes)
        app.router.add_get("/-/ready", self.ready)
        return app

    @web.middleware
    async def _misbehave(
        self,
        request: web.Request,
        handler: Callable[[web.Request], Awaitable[web.StreamResponse]],
    ) -> web.StreamResponse:
        self.headers = dict(request.headers)
        if self.hang:
            await asyncio.Event().wait()
        if self.garbage:
            return web.Response(text="<html>welcome</html>", content_type="text/html")
        if self.refuse is not None:
            return self._refusal()
        response = await handler(request)
        if self.lose_answers and request.transport is not None:
            self.lose_answers -= 1
            request.transport.close()
        return response

    async def _expect(self, request: web.Request) -> web.StreamResponse | None:
        if self.refuse is not None:
            return self._refusal()
        assert request.transport is not None
        request.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        return None

    def _refusal(self) -> web.Response:
        assert self.refuse is not None
        status, code, message = self.refuse
        said = {"code": code, "message": message, "request_id": "1"}
        return web.json_response(said, status=status)

    async def put(self, request: web.Request) -> web.Response:
        self.bodies += 1
        data = b"".join([chunk async for chunk in request.content.iter_any()])
        id_ = blake3(data).hexdigest()
        said = {
            "id": OTHER_ID if self.wrong_id else id_,
            "size_bytes": len(data),
            "durability": self.durability,
            "new": id_ not in self.contents,
        }
        self.contents[id_] = data
        return web.json_response(said, status=201)

    async def get(self, request: web.Request) -> web.StreamResponse:
        data = self.contents.get(request.match_info["id"])
        if data is None:
            message = f"no such content: {request.match_info['id']}"
            return web.json_response({"code": "not_found", "message": message}, status=404)
        if self.flip:
            data = data[:-1] + bytes([data[-1] ^ 1])
        headers = {
            "Content-Length": str(len(data)),
            "Sixfold-Segments": "1",
            "Sixfold-Created": "2026-01-02T03:04:05+00:00",
            "Sixfold-Durability": self.durability,
        }
        response = web.StreamResponse(headers=headers)
        await response.prepare(request)
        if request.method == "GET":
            await response.write(data[: len(data) // 2] if self.truncate else data)
        if self.truncate and request.transport is not None:
            request.transport.close()
        return response

    async def delete(self, request: web.Request) -> web.Response:
        if self.contents.pop(request.match_info["id"], None) is None:
            return web.json_response({"code": "not_found", "message": "no such"}, status=404)
        return web.Response(status=204)

    async def nodes(self, request: web.Request) -> web.Response:
        seen = {
            "number": 1, "name": "node-1", "node_id": "a" * 32, "zone": "rack-1",
            "state": "active", "http_url": "http://127.0.0.1:1", "data": "127.0.0.1:2",
            "capacity_bytes": 1000, "used_bytes": 250, "free_bytes": 750, "shards": 7,
            "last_seen_s": 0.5, "wish": "active", "failure": "", "from_the_future": True,
        }  # fmt: skip
        silent = dict.fromkeys(seen) | {
            "number": 2, "name": "node-2", "node_id": "b" * 32, "zone": "rack-2", "state": "lost",
        }  # fmt: skip
        said = {"cluster_id": "c" * 32, "codec": "isal", "nodes": [seen, silent]}
        return web.json_response(said)

    async def ready(self, request: web.Request) -> web.Response:
        return web.json_response({"ready": False, "nodes_active": 2}, status=503)

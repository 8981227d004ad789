"""The HTTP port: probes, and, for holders of the cluster secret, listing and single shards."""

import json
import logging
import secrets
import time
from collections.abc import Awaitable, Callable
from dataclasses import asdict

from aiohttp import web

from common.auth import HEADER, ClusterSecret, NonceMemory
from common.errors import BadRequest, NotFound, SixfoldError, Unavailable
from common.ids import ShardAddress
from common.shards_json import shard_info_to_json
from shardd.identity import DataDirectory
from shardd.reader import RawRecord
from shardd.store import LIST_PAGE, VolumeStore
from shardd.upkeep_http import UpkeepRoutes

log = logging.getLogger(__name__)

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
_PROBES = "/-/"


class NodeHttp:
    """The application. `store` is None while the node still reads its volumes."""

    def __init__(
        self,
        directory: DataDirectory,
        secret: ClusterSecret,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        self.store: VolumeStore | None = None
        self.joined = False
        self._directory, self._secret, self._clock = directory, secret, wall_clock
        self._nonces = NonceMemory()
        self.app = web.Application(middlewares=[self._errors, self._guard])
        self.app.router.add_get("/-/live", self._live)
        self.app.router.add_get("/-/ready", self._ready)
        self.app.router.add_get("/v1/stat", self._stat)
        self.app.router.add_get("/v1/shards", self._list)
        self.app.router.add_get("/v1/shards/{address}", self._get, allow_head=True)
        UpkeepRoutes(lambda: self._opened, _limit).add_to(self.app.router)

    async def start(self, host: str, port: int) -> tuple[web.AppRunner, int]:
        """The runner, to clean up in the end, and the port that it listens on."""
        runner = web.AppRunner(self.app, access_log=None, shutdown_timeout=1.0)
        await runner.setup()
        await web.TCPSite(runner, host, port).start()
        return runner, runner.addresses[0][1]

    # Middleware

    @web.middleware
    async def _errors(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """The one place where an error becomes a status."""
        try:
            return await handler(request)
        except SixfoldError as error:
            return _refusal(error.http_status, error.code, str(error))
        except web.HTTPException as error:
            return _refusal(error.status, error.reason.lower().replace(" ", "_"), error.reason)
        except Exception:
            log.exception("%s %s failed", request.method, request.path)
            return _refusal(500, SixfoldError.code, "internal error; the node's log has it")

    @web.middleware
    async def _guard(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """All but the probes is signed, and answered only while the directory is still ours."""
        if request.path.startswith(_PROBES):
            return await handler(request)
        header, body = request.headers.get(HEADER, ""), await request.read()
        now_s = self._clock()
        nonce = self._secret.verify(header, request.method, request.raw_path, body, now_s)
        self._nonces.check(nonce, now_s)
        self._directory.check()
        return await handler(request)

    # Probes

    async def _live(self, request: web.Request) -> web.Response:
        return web.json_response({"live": True})

    async def _ready(self, request: web.Request) -> web.Response:
        failure = self.store.failure if self.store is not None else None
        state = {
            "recovered": self.store is not None,
            "joined": self.joined,
            "read_only": failure is not None,
        }
        ready = self.store is not None and self.joined and failure is None
        body = {"ready": ready, **state, "failure": failure}
        return web.json_response(body, status=200 if ready else 503)

    # Shards

    @property
    def _opened(self) -> VolumeStore:
        if self.store is None:
            raise Unavailable("the node still reads its volumes")
        return self.store

    async def _stat(self, request: web.Request) -> web.Response:
        return web.json_response(asdict(await self._opened.stat()))

    async def _list(self, request: web.Request) -> web.Response:
        after = request.query.get("after")
        start = ShardAddress.parse(after) if after else None
        page = await self._opened.page(start, _limit(request))
        lines = b"".join(shard_info_to_json(info) + b"\n" for info in page)
        return web.Response(body=lines, content_type="application/x-ndjson")

    async def _get(self, request: web.Request) -> web.Response:
        address = ShardAddress.parse(request.match_info["address"])
        record = await self._opened.read_raw(address.key)
        if record is None:
            raise NotFound(f"this node has no shard {address}")
        try:
            response = _shard_response(record, with_payload=request.method == "GET")
            verified_at = await self._opened.verified_at(address.key)
            response.headers["Sixfold-Verified-At"] = str(verified_at)
            return response
        finally:
            record.release()


def _limit(request: web.Request) -> int:
    text = request.query.get("limit", str(LIST_PAGE))
    if not text.isdecimal() or not 1 <= int(text) <= LIST_PAGE:
        raise BadRequest(f"limit is not a number from 1 to {LIST_PAGE}: {text[:20]!r}")
    return int(text)


def _shard_response(record: RawRecord, with_payload: bool) -> web.Response:
    info = record.info
    headers = {
        "Sixfold-Address": str(info.address),
        "Sixfold-Checksum": info.checksum.hex(),
        "Sixfold-Code": f"{info.k}/{info.n}",
        "Sixfold-Segment-Bytes": str(info.segment_bytes),
        "Sixfold-Encoding": str(int(info.encoding)),
        "Content-Type": "application/octet-stream",
    }
    if with_payload:
        return web.Response(body=bytes(record.payload), headers=headers)
    return web.Response(headers={**headers, "Content-Length": str(info.payload_bytes)})


def _refusal(status: int, code: str, message: str) -> web.Response:
    body = {"code": code, "message": message, "request_id": secrets.token_hex(8)}
    return web.Response(
        status=status, text=json.dumps(body) + "\n", content_type="application/json"
    )

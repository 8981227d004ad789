"""`/v1/blobs`: store, read, look at and delete contents by their id."""

from collections.abc import AsyncIterator
from datetime import UTC, datetime
from functools import lru_cache

import aiohttp
from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError

from common.errors import BadRequest, NotFound, SixfoldError
from common.ids import ContentId
from coordinator.config import Config
from coordinator.http.bodies import check_headers, check_part_headers, chunks, part_chunks
from coordinator.http.errors import error_response, errors_as_json
from coordinator.http.ranges import ByteRange, matches_etag, parse_range
from coordinator.http.sending import send_pieces
from coordinator.metadata import Manifest, Metadata
from coordinator.read_path import ReadPath
from coordinator.settling import Settling
from coordinator.write_path import WritePath
from coordinator.write_upload import Stored

IMMUTABLE = "public, max-age=31536000, immutable"
SMALL_ANSWER_BYTES = 64 * 1024  # up to here headers and body leave in one write


class BlobHandlers:
    """The handlers, and the routes that lead to them."""

    def __init__(
        self,
        config: Config,
        writes: WritePath,
        reads: ReadPath,
        metadata: Metadata,
        settling: Settling,
    ) -> None:
        self._config, self._writes, self._reads = config, writes, reads
        self._metadata, self._settling = metadata, settling

    def routes(self) -> list[web.RouteDef]:
        early = {"expect_handler": self._expect}
        return [
            web.put("/v1/blobs", self.put, **early),
            web.post("/v1/blobs", self.post_form, **early),
            web.put("/v1/blobs/{id}", self.put_named, **early),
            web.get("/v1/blobs/{id}", self.get, allow_head=False),
            web.head("/v1/blobs/{id}", self.head),
            web.delete("/v1/blobs/{id}", self.delete),
        ]

    # Storing

    async def put(self, request: web.Request) -> web.StreamResponse:
        return await self._put(request, None)

    async def put_named(self, request: web.Request) -> web.StreamResponse:
        return await self._put(request, _id(request))

    async def _put(self, request: web.Request, expected: ContentId | None) -> web.StreamResponse:
        check_headers(request, self._config.max_upload_bytes)
        await self._settling.wait()
        body = chunks(request, self._config.body_idle_s)
        stored = await self._writes.store(body, request.content_length, expected)
        return web.json_response(
            _described(stored),
            status=201 if stored.new else 200,
            headers={
                "Location": f"/v1/blobs/{stored.id}",
                "ETag": _etag(stored.id),
                "Sixfold-Durability": str(stored.durability),
            },
        )

    async def post_form(self, request: web.Request) -> web.StreamResponse:
        """A form with files: an answer for each, in order. The status is 201 if all were stored,
        else that of the first that was not, which ends it; what was stored before it stays."""
        check_headers(request, self._config.max_upload_bytes)
        if request.content_type != "multipart/form-data":
            raise BadRequest("POST takes multipart/form-data; send plain bytes by PUT")
        await self._settling.wait()
        answers: list[dict[str, object]] = []
        status = 201
        try:
            async for part in _files(request):
                check_part_headers(part)
                stored = await self._writes.store(part_chunks(part, self._config.body_idle_s))
                answers.append({"filename": part.filename, **_described(stored)})
        except SixfoldError as error:
            if not answers:
                raise
            status = error.http_status
            answers.append({"code": error.code, "message": str(error)})
        if not answers:
            raise BadRequest("the form holds no file")
        response = web.json_response({"files": answers}, status=status)
        if status != 201:
            response.force_close()
        return response

    async def _expect(self, request: web.Request) -> web.StreamResponse | None:
        """`Expect: 100-continue`: refuse before the body is sent."""

        async def check(request: web.Request) -> web.StreamResponse:
            if request.headers.get("Expect", "").lower() != "100-continue":
                raise web.HTTPExpectationFailed
            check_headers(request, self._config.max_upload_bytes)
            return web.Response()

        verdict = await errors_as_json(request, check)
        if verdict.status >= 400:
            return verdict
        assert request.transport is not None
        request.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        return None

    # Reading

    async def head(self, request: web.Request) -> web.StreamResponse:
        manifest = await self._reads.find(_id(request))
        if matches_etag(request.headers.get("If-None-Match"), _etag(manifest.id)):
            return web.Response(status=304, headers=self._headers(manifest))
        headers = self._headers(manifest) | {"Content-Length": str(manifest.size_bytes)}
        return web.Response(headers=headers)

    async def get(self, request: web.Request) -> web.StreamResponse:
        manifest = await self._reads.find(_id(request))
        headers = self._headers(manifest)
        if matches_etag(request.headers.get("If-None-Match"), _etag(manifest.id)):
            return web.Response(status=304, headers=headers)
        try:
            part = parse_range(_range_header(request, manifest), manifest.size_bytes)
        except SixfoldError as error:
            return _unsatisfiable(request, manifest, error)
        return await self._send(request, manifest, headers, part)

    async def _send(
        self,
        request: web.Request,
        manifest: Manifest,
        headers: dict[str, str],
        part: ByteRange | None,
    ) -> web.StreamResponse:
        status = 200 if part is None else 206
        if part is not None:
            headers["Content-Range"] = part.content_range
        start, end = (part.start, part.end) if part else (0, manifest.size_bytes)
        if end - start <= SMALL_ANSWER_BYTES:
            body = await self._reads.read_small(manifest, start, end)
            return web.Response(status=status, headers=headers, body=body)
        async with self._reads.open(manifest, start, end) as pieces:
            headers["Content-Length"] = str(end - start)
            response = web.StreamResponse(status=status, headers=headers)
            await send_pieces(request, response, pieces, self._config.body_idle_s)
            return response

    def _headers(self, manifest: Manifest) -> dict[str, str]:
        return {
            "ETag": _etag(manifest.id),
            "Cache-Control": IMMUTABLE,
            "Accept-Ranges": "bytes",
            "Content-Type": "application/octet-stream",
            "Sixfold-Created": _iso_date(manifest.created_at_s),
            "Sixfold-Segments": str(len(manifest.segments)),
            "Sixfold-Durability": str(self._reads.durability(manifest)),
        }

    async def delete(self, request: web.Request) -> web.StreamResponse:
        id_ = _id(request)
        if not await self._metadata.unpin(id_):
            raise NotFound(f"no such content: {id_}")
        return web.Response(status=204)


async def _files(request: web.Request) -> AsyncIterator[aiohttp.BodyPartReader]:
    try:
        reader = await request.multipart()
        async for part in reader:
            if isinstance(part, aiohttp.BodyPartReader) and part.filename is not None:
                yield part
    except (ValueError, AssertionError, HttpProcessingError) as error:
        raise BadRequest(f"not a well-formed form: {error}") from None


def _id(request: web.Request) -> ContentId:
    return ContentId.parse(request.match_info["id"])


def _etag(id_: ContentId) -> str:
    return f'"{id_}"'


def _described(stored: Stored) -> dict[str, object]:
    return {
        "id": str(stored.id),
        "size_bytes": stored.size_bytes,
        "durability": str(stored.durability),
        "new": stored.new,
    }


@lru_cache
def _iso_date(unix_s: int) -> str:
    return datetime.fromtimestamp(unix_s, UTC).isoformat()


def _range_header(request: web.Request, manifest: Manifest) -> str | None:
    """The Range header, unless If-Range names other bytes (then all of it is wanted)."""
    condition = request.headers.get("If-Range")
    if condition is not None and condition != _etag(manifest.id):
        return None
    return request.headers.get("Range")


def _unsatisfiable(request: web.Request, manifest: Manifest, error: SixfoldError) -> web.Response:
    response = error_response(request, error.http_status, error.code, str(error), error)
    response.headers["Content-Range"] = f"bytes */{manifest.size_bytes}"
    return response

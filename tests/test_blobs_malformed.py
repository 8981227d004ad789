"""Requests that are wrong, that stall, or that end too soon: clear refusals, nothing kept."""

import asyncio
import json
from typing import Any, cast

import aiohttp
import pytest
from aiohttp import web

from common.units import MIB
from coordinator.buffers import StripeBuffers
from coordinator.http.malformed import JsonErrorsRunner
from coordinator.http.sending import send_piece
from coordinator.read_ahead import Piece
from tests.blobs import SEGMENT, UNKNOWN, content, get, id_of, put, raw, shards_stored
from tests.local_cluster import LocalCluster


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", f"/v1/blobs/{UNKNOWN}", 404, "not_found"),
        ("DELETE", f"/v1/blobs/{UNKNOWN}", 404, "not_found"),
        ("GET", "/v1/blobs/abc", 400, "malformed_id"),
        ("GET", f"/v1/blobs/{'G' * 64}", 400, "malformed_id"),
        ("GET", f"/v1/blobs/{'A' * 64}", 400, "malformed_id"),
        ("PUT", "/v1/blobs/abc", 400, "malformed_id"),
        ("DELETE", "/v1/blobs/%00", 400, "malformed_id"),
        ("GET", "/v1/blobs/..%2f..%2fetc", 400, "malformed_id"),
        ("GET", "/nowhere", 404, "not_found"),
        ("POST", "/v1/blobs", 400, "bad_request"),
        ("PATCH", "/v1/blobs", 405, "method_not_allowed"),
    ],
)
async def test_bad_requests(
    http: aiohttp.ClientSession, method: str, path: str, status: int, code: str
) -> None:
    async with http.request(method, path) as answer:
        said = await answer.json()
        assert (answer.status, said["code"]) == (status, code)
        assert said["message"]
        assert said["request_id"] == answer.headers["Sixfold-Request-Id"]


async def test_content_encoding_is_refused(http: aiohttp.ClientSession) -> None:
    async with http.put(
        "/v1/blobs", data=b"x", headers={"Content-Encoding": "gzip"}, skip_auto_headers=["Accept"]
    ) as answer:
        assert answer.status == 415


async def test_a_second_encoding_does_not_slip_past_the_first(cluster: LocalCluster) -> None:
    for names in (("identity", "gzip"), ("gzip", "identity"), ("gzip",)):
        encodings = "".join(f"Content-Encoding: {name}\r\n" for name in names)
        head = f"PUT /v1/blobs HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n{encodings}"
        reader, writer = await raw(cluster, f"{head}\r\n3\r\nabc\r\n0\r\n\r\n".encode())
        assert (await reader.readline()).split()[1] == b"415"
        writer.close()
        await writer.wait_closed()


async def test_uploads_that_only_pretend_to_be_large_keep_nobody_out(
    cluster: LocalCluster, http: aiohttp.ClientSession
) -> None:
    """More of them than there are full buffers, each stalled after one byte."""
    head = b"PUT /v1/blobs HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n"
    stalled = [await raw(cluster, head) for _ in range(40)]
    await put(http, content(10_000_000, "while others stall"))
    for _, writer in stalled:
        writer.transport.abort()


class SlowClient:
    """A connection whose client has left so much untaken whenever it is looked at."""

    def __init__(self, *untaken_bytes: int) -> None:
        self._untaken_bytes = list(untaken_bytes)

    async def write(self, data: bytes) -> None:
        await self.drain()

    async def drain(self) -> None:
        if self._untaken_bytes:
            await asyncio.Event().wait()

    def get_write_buffer_size(self) -> int:
        return self._untaken_bytes.pop(0)

    async def takes(self, piece: Piece) -> None:
        response, transport = cast(web.StreamResponse, self), cast(asyncio.WriteTransport, self)
        await send_piece(response, transport, piece, 0.01)


@pytest.mark.parametrize("untaken_bytes", [[9 * MIB], [8 * MIB, 8 * MIB], [1, 1, 1]])
async def test_a_reader_that_takes_nothing_gives_its_memory_back(untaken_bytes: list[int]) -> None:
    """At once, or from some time on."""
    buffers = StripeBuffers(20 * MIB)
    buffer = await buffers.acquire(9 * MIB, 1.0)
    with pytest.raises(TimeoutError):
        await SlowClient(*untaken_bytes).takes(Piece(buffer.memory, buffer))
    await buffers.acquire(20 * MIB, 10.0)  # who waits for it gets it


async def test_a_reader_that_takes_a_little_each_time_gets_all() -> None:
    buffers = StripeBuffers(20 * MIB)
    buffer = await buffers.acquire(9 * MIB, 1.0)
    await SlowClient(9 * MIB - 1, 8 * MIB, 100, 1).takes(Piece(buffer.memory, buffer))
    assert buffers.used_bytes == 0


def form(*parts: str, end: str = "--x--\r\n") -> bytes:
    return ("".join(f"--x\r\n{part}\r\n" for part in parts) + end).encode()


A_FILE = 'Content-Disposition: form-data; name="f"; filename="a"\r\n'


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        (b"", 400, "bad_request"),
        (b"garbage", 400, "bad_request"),
        (form('Content-Disposition: form-data; name="f"\r\n\r\nno file'), 400, "bad_request"),
        (form(A_FILE + "\r\ncut short", end=""), 400, "incomplete_body"),
        (form("a line without a colon\r\n\r\nx"), 400, "bad_request"),
        (form(A_FILE, end=""), 400, "incomplete_body"),
        (form(A_FILE + "Content-Encoding: gzip\r\n\r\nx"), 415, "unsupported_encoding"),
        (
            form(A_FILE + "Content-Transfer-Encoding: base64\r\n\r\neHg="),
            415,
            "unsupported_encoding",
        ),
    ],
)
async def test_malformed_forms(
    http: aiohttp.ClientSession, body: bytes, status: int, code: str
) -> None:
    headers = {"Content-Type": "multipart/form-data; boundary=x"}
    async with http.post("/v1/blobs", data=body, headers=headers) as answer:
        said = await answer.json()
    assert (answer.status, said["code"]) == (status, code), said


async def test_a_form_that_breaks_off_tells_what_was_stored(http: aiohttp.ClientSession) -> None:
    body = form(A_FILE + "\r\nfirst of two", A_FILE + "\r\ncut", end="")
    headers = {"Content-Type": "multipart/form-data; boundary=x"}
    async with http.post("/v1/blobs", data=body, headers=headers) as answer:
        stored, refused = (await answer.json())["files"]
    assert answer.status == 400
    assert stored["id"] == id_of(b"first of two")
    assert refused["code"] == "incomplete_body"
    assert await get(http, stored["id"]) == b"first of two"


@pytest.mark.parametrize(
    ("request_head", "status"),
    [
        ("PUT /v1/blobs HTTP/1.1\r\nContent-Length: 5\r\nTransfer-Encoding: chunked", 400),
        ("PUT /v1/blobs HTTP/1.1\r\nContent-Length: -5", 400),
        ("PUT /v1/blobs HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nZZ", 400),
        ("PUT /v1/blobs HTTP/1.1\r\nTransfer-Encoding: gzip, chunked", 415),
        ("PUT /v1/blobs HTTP/1.1\r\nContent-Length: 5\r\nExpect: miracles", 417),
        ("PUT /v1/blobs HTTP/1.1\r\nX-Long: " + "x" * 20_000, 400),
        ("PUT /v1/blobs HTTP/9.x", 400),
        ("PUT\x01/v1/blobs HTTP/1.1", 400),
        ("\x16\x03\x01", 400),
        ("GET /v1/blobs HTTP/1.1\r\nno colon", 400),
        ("GET /v1/blobs HTTP/1.1\r\nX: nul\0", 400),
    ],
)
async def test_malformed_http(cluster: LocalCluster, request_head: str, status: int) -> None:
    reader, writer = await raw(cluster, f"{request_head}\r\nHost: x\r\n\r\n".encode())
    head = (await reader.readuntil(b"\r\n\r\n")).decode()
    assert head.split()[1] == str(status)
    fields = dict(line.split(": ", 1) for line in head.splitlines()[1:] if line)
    said = json.loads(await reader.readexactly(int(fields["Content-Length"])))
    assert set(said) == {"code", "message", "request_id"}
    assert said["request_id"] == fields["Sixfold-Request-Id"]
    assert "\n" not in said["message"]
    writer.close()
    await writer.wait_closed()


async def test_a_declared_length_over_the_limit_is_refused_before_the_body(
    cluster: LocalCluster,
) -> None:
    request = b"PUT /v1/blobs HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999\r\n"
    for expect in (b"", b"Expect: 100-continue\r\n"):
        reader, writer = await raw(cluster, request + expect + b"\r\n")
        assert await reader.readline() == b"HTTP/1.1 413 Request Entity Too Large\r\n"
        assert b"too_large" in await reader.read()
        writer.close()
        await writer.wait_closed()


async def test_a_body_shorter_than_declared_leaves_nothing(
    cluster: LocalCluster, http: aiohttp.ClientSession
) -> None:
    before = await shards_stored(cluster)
    for size in (1000, SEGMENT + 1000, 3 * SEGMENT):
        data = content(size, "short")
        head = f"PUT /v1/blobs HTTP/1.1\r\nHost: x\r\nContent-Length: {size + 1}\r\n\r\n"
        _, writer = await raw(cluster, head.encode() + data)
        writer.close()
        await writer.wait_closed()
        async with http.get(f"/v1/blobs/{id_of(data)}") as answer:
            assert answer.status == 404
    while await shards_stored(cluster) > before:  # what earlier tests left may go as well
        pass


async def test_a_reader_that_vanishes_disturbs_nobody(
    cluster: LocalCluster, http: aiohttp.ClientSession
) -> None:
    data = content(4 * SEGMENT, "vanish")
    id_ = await put(http, data)
    for _ in range(10):
        request = f"GET /v1/blobs/{id_} HTTP/1.1\r\nHost: x\r\n\r\n"
        reader, writer = await raw(cluster, request.encode())
        await reader.readexactly(1000)
        assert writer.transport is not None
        writer.transport.abort()
    assert await get(http, id_) == data


async def test_what_follows_malformed_http_is_not_kept() -> None:
    released = asyncio.Event()

    async def slow(request: web.Request) -> web.Response:
        await released.wait()
        return web.Response(text="slow")

    app = web.Application()
    app.router.add_get("/", slow)
    runner = JsonErrorsRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        reader, writer = await asyncio.open_connection(*runner.addresses[0][:2])
        writer.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        await writer.drain()
        assert runner.server is not None
        while not runner.server.connections:
            await asyncio.sleep(0)
        (connection,) = runner.server.connections
        for _ in range(50):
            connection.data_received(b"\x00garbage\r\n\r\n")
        assert len(connection._messages) == 1
        queued: Any = connection._messages[0][0]
        assert queued.exc.__traceback__ is None
        released.set()
        assert b"400 Bad Request" in await reader.read()
        writer.close()
    finally:
        released.set()
        await runner.cleanup()

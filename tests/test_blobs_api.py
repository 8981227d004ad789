"""`/v1/blobs` over real HTTP on a real cluster of nine nodes."""

import asyncio
import hashlib
import io
import json
import secrets
import time
from collections.abc import AsyncIterator
from typing import cast

import aiohttp
import pytest
from aiohttp import web
from blake3 import blake3

from common.auth import HEADER, ClusterSecret
from common.membership import REPORT_PATH, NodeReport
from common.units import KIB, MIB
from coordinator.buffers import StripeBuffers
from coordinator.http.blobs import _send_piece
from coordinator.read_path import Piece
from tests.local_cluster import LocalCluster

SEGMENT = 6 * MIB
UNKNOWN = "0" * 64


def content(size: int, seed: str) -> bytes:
    """Reproducible bytes that no other test stores."""
    return hashlib.shake_128(f"{seed}/{size}".encode()).digest(size)


def id_of(data: bytes) -> str:
    return blake3(data).hexdigest()


async def put(http: aiohttp.ClientSession, data: bytes) -> str:
    async with http.put("/v1/blobs", data=io.BytesIO(data)) as answer:
        assert answer.status in (200, 201), await answer.text()
        said = await answer.json()
    assert said["id"] == id_of(data)
    id_: str = said["id"]
    return id_


async def get(http: aiohttp.ClientSession, id_: str) -> bytes:
    async with http.get(f"/v1/blobs/{id_}") as answer:
        assert answer.status == 200
        return await answer.read()


async def shards_stored(cluster: LocalCluster) -> int:
    """What the nodes themselves report, once they have all reported anew."""
    nodes = await asyncio.to_thread(cluster.fresh_nodes)
    return sum(node["shards"] for node in nodes.values())


@pytest.mark.parametrize(
    "size",
    [0, 1, 5, 6, 7, 4096, 64 * KIB, 64 * KIB + 1, 400_000, SEGMENT - 1, SEGMENT, SEGMENT + 1,
     2 * SEGMENT, 3 * SEGMENT + 12345],
)  # fmt: skip
async def test_any_size_comes_back(http: aiohttp.ClientSession, size: int) -> None:
    data = content(size, "any size")
    async with http.put("/v1/blobs", data=io.BytesIO(data)) as answer:
        assert answer.status == 201
        said = await answer.json()
        assert answer.headers["Sixfold-Durability"] == "9/9; survives=3"
        assert answer.headers["Location"] == f"/v1/blobs/{id_of(data)}"
    assert said == {
        "id": id_of(data),
        "size_bytes": size,
        "durability": "9/9; survives=3",
        "new": True,
    }
    async with http.get(f"/v1/blobs/{said['id']}") as answer:
        assert answer.status == 200
        assert int(answer.headers["Content-Length"]) == size
        assert answer.headers["ETag"] == f'"{said["id"]}"'
        assert "immutable" in answer.headers["Cache-Control"]
        assert await answer.read() == data


async def test_a_body_of_unknown_length(http: aiohttp.ClientSession) -> None:
    data = content(SEGMENT + 999, "chunked")

    async def pieces() -> AsyncIterator[bytes]:
        for start in range(0, len(data), 100_001):
            yield data[start : start + 100_001]

    async with http.put("/v1/blobs", data=pieces()) as answer:
        assert answer.status == 201
        assert (await answer.json())["id"] == id_of(data)
    assert await get(http, id_of(data)) == data


async def test_the_same_bytes_again_write_no_shard(
    cluster: LocalCluster, http: aiohttp.ClientSession
) -> None:
    data = content(2 * SEGMENT + 5, "twice")
    await put(http, data)
    before = await shards_stored(cluster)
    async with http.put("/v1/blobs", data=io.BytesIO(data)) as answer:
        assert answer.status == 200
        assert (await answer.json())["new"] is False
    assert await shards_stored(cluster) == before


async def test_equal_segments_are_stored_once(
    cluster: LocalCluster, http: aiohttp.ClientSession
) -> None:
    before = await shards_stored(cluster)
    data = bytes(7 * SEGMENT)
    await put(http, data)
    assert await get(http, id_of(data)) == data
    assert await shards_stored(cluster) - before == 18  # one segment and the segment list


async def test_concurrent_puts_of_the_same_bytes(http: aiohttp.ClientSession) -> None:
    data = content(100_000, "race")
    ids = await asyncio.gather(*(put(http, data) for _ in range(20)))
    assert set(ids) == {id_of(data)}
    assert await get(http, ids[0]) == data


async def test_put_by_id(http: aiohttp.ClientSession) -> None:
    data = content(5000, "by id")
    async with http.put(f"/v1/blobs/{id_of(data)}", data=data) as answer:
        assert answer.status == 201
    assert await get(http, id_of(data)) == data


@pytest.mark.parametrize("size", [3000, SEGMENT + 3000])
async def test_put_of_other_bytes_keeps_nothing(
    cluster: LocalCluster, http: aiohttp.ClientSession, size: int
) -> None:
    data = content(size, "mismatch")
    before = await shards_stored(cluster)
    async with http.put(f"/v1/blobs/{UNKNOWN}", data=io.BytesIO(data)) as answer:
        assert answer.status == 422
        assert (await answer.json())["code"] == "id_mismatch"
    for id_ in (UNKNOWN, id_of(data)):
        async with http.get(f"/v1/blobs/{id_}") as answer:
            assert answer.status == 404
    while await shards_stored(cluster) != before:
        pass


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


async def test_head(http: aiohttp.ClientSession) -> None:
    data = content(SEGMENT + 1, "head")
    id_ = await put(http, data)
    async with http.head(f"/v1/blobs/{id_}") as answer:
        assert answer.status == 200
        assert answer.headers["Content-Length"] == str(len(data))
        assert answer.headers["Sixfold-Segments"] == "2"
        assert await answer.read() == b""
    async with http.head(f"/v1/blobs/{UNKNOWN}") as answer:
        assert answer.status == 404


@pytest.mark.parametrize(
    ("header", "start", "end"),
    [
        ("bytes=0-0", 0, 1),
        ("bytes=10-19", 10, 20),
        (f"bytes={SEGMENT - 5}-{SEGMENT + 4}", SEGMENT - 5, SEGMENT + 5),
        (f"bytes={MIB}-{MIB}", MIB, MIB + 1),
        ("bytes=13000000-", 13_000_000, 2 * SEGMENT + 777_777),
        ("bytes=-3", 2 * SEGMENT + 777_774, 2 * SEGMENT + 777_777),
        ("bytes=0-99999999", 0, 2 * SEGMENT + 777_777),
        ("bytes=100-7000000", 100, 7_000_001),
    ],
)
async def test_ranges(http: aiohttp.ClientSession, header: str, start: int, end: int) -> None:
    data = content(2 * SEGMENT + 777_777, "ranges")
    id_ = await put(http, data)
    async with http.get(f"/v1/blobs/{id_}", headers={"Range": header}) as answer:
        assert answer.status == 206
        assert answer.headers["Content-Range"] == f"bytes {start}-{end - 1}/{len(data)}"
        assert await answer.read() == data[start:end]


async def test_range_outside(http: aiohttp.ClientSession) -> None:
    id_ = await put(http, content(100, "outside"))
    async with http.get(f"/v1/blobs/{id_}", headers={"Range": "bytes=100-"}) as answer:
        assert answer.status == 416
        assert answer.headers["Content-Range"] == "bytes */100"
        said = await answer.json()
        assert said["code"] == "range_not_satisfiable"
        assert said["request_id"] == answer.headers["Sixfold-Request-Id"]


async def test_conditional_requests(http: aiohttp.ClientSession) -> None:
    id_ = await put(http, content(100, "conditional"))
    for method in ("GET", "HEAD"):
        headers = {"If-None-Match": f'"{id_}"'}
        async with http.request(method, f"/v1/blobs/{id_}", headers=headers) as answer:
            assert answer.status == 304
            assert answer.headers["ETag"] == f'"{id_}"'
            assert await answer.read() == b""
    headers = {"If-Range": '"something else"', "Range": "bytes=0-1"}
    async with http.get(f"/v1/blobs/{id_}", headers=headers) as answer:
        assert answer.status == 200


async def test_delete(http: aiohttp.ClientSession) -> None:
    data = content(70_000, "delete")
    id_ = await put(http, data)
    async with http.delete(f"/v1/blobs/{id_}") as answer:
        assert answer.status == 204
    for method in ("GET", "HEAD", "DELETE"):
        async with http.request(method, f"/v1/blobs/{id_}") as answer:
            assert answer.status == 404
    async with http.put("/v1/blobs", data=io.BytesIO(data)) as answer:
        assert answer.status == 201
    assert await get(http, id_) == data


async def test_content_encoding_is_refused(http: aiohttp.ClientSession) -> None:
    async with http.put(
        "/v1/blobs", data=b"x", headers={"Content-Encoding": "gzip"}, skip_auto_headers=["Accept"]
    ) as answer:
        assert answer.status == 415


async def test_a_form_with_several_files(http: aiohttp.ClientSession) -> None:
    files = [content(size, "form") for size in (0, 10, SEGMENT + 10)]
    form = aiohttp.FormData()
    form.add_field("comment", "not a file")
    for number, data in enumerate(files):
        form.add_field("file", io.BytesIO(data), filename=f"{number}.bin")
    async with http.post("/v1/blobs", data=form) as answer:
        assert answer.status == 201
        said = (await answer.json())["files"]
    assert [(file["filename"], file["id"]) for file in said] == [
        (f"{number}.bin", id_of(data)) for number, data in enumerate(files)
    ]
    for data in files:
        assert await get(http, id_of(data)) == data


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


class StuckResponse:
    """A client that takes nothing."""

    async def write(self, data: bytes) -> None:
        await asyncio.Event().wait()


async def test_a_reader_that_takes_nothing_gives_its_memory_back() -> None:
    buffers = StripeBuffers(20 * MIB)
    buffer = await buffers.acquire(9 * MIB, 1.0)
    with pytest.raises(TimeoutError):
        await _send_piece(
            cast(web.StreamResponse, StuckResponse()), Piece(buffer.memory, buffer), 0.01
        )
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


async def raw(
    cluster: LocalCluster, request: bytes
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    host, port = cluster.url.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(request)
    await writer.drain()
    return reader, writer


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
    while await shards_stored(cluster) != before:
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


async def test_probes_and_nodes(cluster: LocalCluster, http: aiohttp.ClientSession) -> None:
    async with http.get("/-/live") as answer:
        assert answer.status == 200
    async with http.get("/-/ready") as answer:
        assert (await answer.json())["nodes_active"] == 9
    async with http.get("/-/admin/nodes") as answer:
        said = json.loads(await answer.text())
    assert said["codec"] in ("isal", "zfec")
    assert {node["name"] for node in said["nodes"]} == {f"node-{i}" for i in range(1, 10)}
    assert all(node["state"] == "active" for node in said["nodes"])


async def test_a_report_may_arrive_in_pieces(cluster: LocalCluster) -> None:
    """A body that comes in two segments is still the body that was signed."""
    node = next(iter(cluster.nodes().values()))
    report = NodeReport(
        node["node_id"], secrets.token_hex(16), "", node["name"], node["zone"], "http://x",
        "127.0.0.1", 1, 1, 0, 1, 0, False,
    )  # fmt: skip
    body = report.to_json()
    secret = ClusterSecret((cluster.directory / "secret").read_bytes().strip())
    signature = secret.sign("POST", REPORT_PATH, body, time.time(), secrets.token_hex(16))
    head = (
        f"POST {REPORT_PATH} HTTP/1.1\r\nHost: x\r\n{HEADER}: {signature}\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    )
    reader, writer = await raw(cluster, head.encode() + body[:100])
    await asyncio.sleep(0.05)  # so that they do not leave as one
    writer.write(body[100:])
    assert (await reader.readline()).split()[1] == b"409"  # that node is served by another process
    writer.close()
    await writer.wait_closed()


async def test_a_node_report_needs_the_secret(http: aiohttp.ClientSession) -> None:
    async with http.post("/-/cluster/report", data=b"{}") as answer:
        assert answer.status == 401

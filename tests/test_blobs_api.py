"""`/v1/blobs` over real HTTP on a real cluster of nine nodes."""

import asyncio
import io
import json
import secrets
import time
from collections.abc import AsyncIterator

import aiohttp
import pytest

from common.auth import HEADER, ClusterSecret
from common.membership import REPORT_PATH, NodeReport
from common.units import KIB, MIB
from tests.blobs import SEGMENT, UNKNOWN, content, get, id_of, put, raw, shards_stored
from tests.local_cluster import LocalCluster


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
    while await shards_stored(cluster) > before:  # what earlier tests left may go as well
        pass


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
        "127.0.0.1", 1, 1, 0, 1, 0,
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

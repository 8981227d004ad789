"""The node's HTTP: probes for everyone, the rest for holders of the cluster secret."""

import io
import json
import secrets
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from common.auth import HEADER, VALID_S, ClusterSecret
from common.shards import ShardRecord
from common.shards_json import shard_info_from_json
from common.units import KIB, MIB
from shardd.http import NodeHttp
from shardd.identity import DataDirectory
from tests.stores import SECRET, ServedNode, make_shard, served_node

SHARDS = [make_shard(size, seed) for seed in range(4) for size in (0, 100, 100 * KIB)]
ROUTES = [
    ("GET", "/v1/stat"),
    ("GET", "/v1/shards"),
    ("GET", f"/v1/shards/{SHARDS[0].address}"),
    ("HEAD", f"/v1/shards/{SHARDS[0].address}"),
    ("DELETE", f"/v1/shards/{SHARDS[0].address}"),
    ("GET", "/v1/quarantine"),
    ("POST", "/v1/quarantine"),
    ("POST", "/v1/quarantine/restore"),
    ("DELETE", f"/v1/quarantine/{SHARDS[0].address}"),
    ("GET", "/v1/scrub"),
    ("POST", "/v1/scrub"),
    ("GET", "/v1/nothing"),
]


@pytest.fixture
async def node(tmp_path: Path) -> AsyncIterator[ServedNode]:
    async with served_node(tmp_path) as served:
        await served.store.append(SHARDS)
        yield served


@pytest.fixture
async def http(node: ServedNode) -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(node.http_url) as session:
        yield session


def signed(
    method: str,
    path: str,
    secret: ClusterSecret = SECRET,
    age_s: float = 0,
    nonce: str | None = None,
    body: bytes = b"",
) -> dict[str, str]:
    now_s = time.time() - age_s
    return {HEADER: secret.sign(method, path, body, now_s, nonce or secrets.token_hex(16))}


async def ask(http: aiohttp.ClientSession, method: str, path: str) -> tuple[int, bytes]:
    async with http.request(method, path, headers=signed(method, path)) as answer:
        return answer.status, await answer.read()


def test_every_route_is_in_the_list_below(tmp_path: Path) -> None:
    """A route that is added must be added to the tests of who may use it."""
    directory = DataDirectory(tmp_path)
    app = NodeHttp(directory, SECRET).app
    directory.close()
    known = {(method, path.replace(str(SHARDS[0].address), "{address}")) for method, path in ROUTES}
    for route in app.router.routes():
        assert route.resource is not None
        path = route.resource.canonical
        if not path.startswith("/-/") and (route.method, path) not in known:
            assert route.method == "HEAD"
            assert ("GET", path) in known


@pytest.mark.parametrize(("method", "path"), ROUTES, ids=lambda part: part[:12])
@pytest.mark.parametrize(
    "how",
    ["none", "garbage", "forged", "expired", "future", "method", "path", "query", "body", "replay"],
)
async def test_only_signed_requests_are_answered(
    node: ServedNode, http: aiohttp.ClientSession, method: str, path: str, how: str
) -> None:
    body = b""
    match how:
        case "none":
            headers = {}
        case "garbage":
            headers = {HEADER: "v1 now nonce mac"}
        case "forged":
            headers = signed(method, path, ClusterSecret(b"another secret altogether"))
        case "expired":
            headers = signed(method, path, age_s=VALID_S + 2)
        case "future":
            headers = signed(method, path, age_s=-VALID_S - 2)
        case "method":
            headers = signed("PUT", path)
        case "path":
            headers = signed(method, path + "x")
        case "query":
            headers = signed(method, path + "?limit=1")
        case "body":
            headers, body = signed(method, path, body=b"one"), b"two"
        case "replay":
            headers = signed("GET", "/v1/stat", nonce="once")
            async with http.get("/v1/stat", headers=headers) as answer:
                assert answer.status == 200
            headers = signed(method, path, nonce="once")
    async with http.request(method, path, headers=headers, data=body) as answer:
        assert answer.status == 401
        if method != "HEAD":
            said = await answer.json()
            assert said["code"] == "unauthorized"
            assert said.keys() == {"code", "message", "request_id"}
    assert (await node.store.stat()).shards == len(SHARDS)


@pytest.mark.parametrize("shard", SHARDS[:3])
async def test_one_shard_by_address(http: aiohttp.ClientSession, shard: ShardRecord) -> None:
    path = f"/v1/shards/{shard.address}"
    for method in ("GET", "HEAD"):
        async with http.request(method, path, headers=signed(method, path)) as answer:
            assert answer.status == 200
            assert answer.headers["Sixfold-Checksum"] == shard.info.checksum.hex()
            assert answer.headers["Sixfold-Address"] == str(shard.address)
            assert answer.headers["Sixfold-Code"] == "6/9"
            assert answer.headers["Content-Type"] == "application/octet-stream"
            assert answer.headers["Sixfold-Verified-At"] == "0"
            assert answer.headers["Content-Length"] == str(len(shard.payload))
            assert await answer.read() == (shard.payload if method == "GET" else b"")


async def test_a_shard_is_deleted_over_a_lane_only(http: aiohttp.ClientSession) -> None:
    """A lane's DELETE tells the epoch at which it was decided; this could not be refused as old."""
    path = f"/v1/shards/{SHARDS[1].address}"
    status, body = await ask(http, "DELETE", path)
    assert (status, json.loads(body)["code"]) == (405, "method_not_allowed")
    assert await ask(http, "GET", path) == (200, bytes(SHARDS[1].payload))


@pytest.mark.parametrize("address", ["x", "0" * 64, "../node.json", "%2e%2e%2fnode.json"])
async def test_what_is_no_address(http: aiohttp.ClientSession, address: str) -> None:
    status, body = await ask(http, "GET", f"/v1/shards/{address}")
    assert status in (400, 401, 404)
    assert b"cluster_id" not in body


async def listed(http: aiohttp.ClientSession, query: str) -> list[str]:
    status, body = await ask(http, "GET", f"/v1/shards{query}")
    assert status == 200
    return [str(shard_info_from_json(line).address) for line in body.splitlines()]


async def test_listing_by_pages(http: aiohttp.ClientSession) -> None:
    expected = [str(address) for address in sorted(shard.address for shard in SHARDS)]
    assert await listed(http, "") == expected
    first = await listed(http, "?limit=5")
    assert first == expected[:5]
    assert await listed(http, f"?limit=5&after={first[-1]}") == expected[5:10]
    assert await listed(http, f"?after={expected[-1]}") == []


@pytest.mark.parametrize("query", ["?limit=0", "?limit=1001", "?limit=x", "?after=x"])
async def test_bad_listing_queries(http: aiohttp.ClientSession, query: str) -> None:
    status, body = await ask(http, "GET", f"/v1/shards{query}")
    assert status == 400
    assert json.loads(body)["code"] in ("bad_request", "malformed_id")


async def test_the_figures(http: aiohttp.ClientSession) -> None:
    status, body = await ask(http, "GET", "/v1/stat")
    said: dict[str, Any] = json.loads(body)
    assert status == 200
    assert said["shards"] == len(SHARDS)
    assert said.keys() == {
        "capacity_bytes",
        "used_bytes",
        "free_bytes",
        "shards",
        "failure",
        "detached",
    }


async def test_probes(node: ServedNode, http: aiohttp.ClientSession) -> None:
    async with http.get("/-/live") as answer:
        assert answer.status == 200
    async with http.get("/-/ready") as answer:
        assert answer.status == 503
        assert (await answer.json())["joined"] is False
    node.http.joined = True
    async with http.get("/-/ready") as answer:
        assert answer.status == 200
        assert (await answer.json())["ready"] is True
    node.store._writer.failure = "for this test"
    async with http.get("/-/ready") as answer:
        assert answer.status == 503
        said = await answer.json()
        assert (said["read_only"], said["failure"]) == (True, "for this test")


async def test_while_volumes_are_read(node: ServedNode, http: aiohttp.ClientSession) -> None:
    node.http.store = None
    async with http.get("/-/live") as answer:
        assert answer.status == 200
    async with http.get("/-/ready") as answer:
        assert (answer.status, (await answer.json())["recovered"]) == (503, False)
    status, body = await ask(http, "GET", "/v1/stat")
    assert (status, json.loads(body)["code"]) == (503, "unavailable")


async def test_a_swapped_disk_answers_nothing(
    node: ServedNode, http: aiohttp.ClientSession, tmp_path: Path
) -> None:
    (tmp_path / "node.json").unlink()
    status, body = await ask(http, "GET", "/v1/stat")
    assert (status, json.loads(body)["code"]) == (409, "wrong_node")


async def test_unknown_paths_and_methods_are_json_too(http: aiohttp.ClientSession) -> None:
    for method, path, status in (("GET", "/v1/x", 404), ("POST", "/v1/stat", 405)):
        got, body = await ask(http, method, path)
        assert got == status
        assert json.loads(body).keys() == {"code", "message", "request_id"}


async def test_a_body_that_is_too_large_is_not_read(http: aiohttp.ClientSession) -> None:
    body = io.BytesIO(bytes(3 * MIB))
    async with http.post("/v1/stat", data=body, headers={HEADER: "x"}) as answer:
        assert answer.status == 413

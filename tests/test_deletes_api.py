"""What operators are told of stopped deletes, and how they stop and allow them."""

import json

import aiohttp
import pytest

from tests.local_cluster import LocalCluster, run_sixfold, sixfold


async def test_stopping_and_allowing(cluster: LocalCluster, http: aiohttp.ClientSession) -> None:
    said = run_sixfold("--url", cluster.url, "admin", "stop-deletes", "a disk smells odd")
    assert said == "deletes are stopped: a disk smells odd\n"
    try:
        for path in ("/-/ready", "/-/admin/nodes", "/-/admin/deletes"):
            async with http.get(path) as answer:
                assert (await answer.json())["deletes_stopped"] == "a disk smells odd", path
        assert "deletes are stopped: a disk" in run_sixfold("--url", cluster.url, "nodes")
        async with http.post("/-/admin/deletes/stop", json={"reason": "another"}) as answer:
            assert await answer.json() == {"deletes_stopped": "a disk smells odd; another"}
        async with http.put("/v1/blobs", data=b"stored all the same") as answer:
            assert answer.status == 201
            url = f"/v1/blobs/{(await answer.json())['id']}"
        async with http.delete(url) as answer:
            assert answer.status == 204
    finally:
        said = run_sixfold("--json", "--url", cluster.url, "admin", "allow-deletes")
    assert json.loads(said) == {"deletes_stopped": "", "was": "a disk smells odd; another"}
    said = run_sixfold("--url", cluster.url, "admin", "allow-deletes")
    assert said == "deletes are allowed and were before\n"
    async with http.get("/-/ready") as answer:
        assert (await answer.json())["deletes_stopped"] == ""


@pytest.mark.parametrize(
    "body", [b"", b"{", b"[]", b"{}", b'{"reason": 1}', b'{"reason": " "}', b'{"reason": "%s"}']
)
async def test_a_reason_is_needed(http: aiohttp.ClientSession, body: bytes) -> None:
    body = body.replace(b"%s", b"x" * 501)
    async with http.post("/-/admin/deletes/stop", data=body) as answer:
        assert answer.status == 400
        assert (await answer.json())["code"] == "bad_request"
    async with http.get("/-/admin/deletes") as answer:
        assert await answer.json() == {"deletes_stopped": ""}


def test_an_empty_reason_is_a_bad_request(cluster: LocalCluster) -> None:
    done = sixfold("--url", cluster.url, "admin", "stop-deletes", "")
    assert done.returncode == 2
    assert "reason" in done.stderr

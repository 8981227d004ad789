"""Small contents that are uploaded at the same time, as clients and operators see them."""

import asyncio
import os

import aiohttp
import pytest

from common.hashing import blake3_digest
from sixfold.care_words import explain_lines

CLIENTS = 24


@pytest.fixture
async def contents(http: aiohttp.ClientSession) -> dict[str, bytes]:
    """By their ids; all are uploaded at once, so most of them share a segment."""
    made = [os.urandom(100 + at) for at in range(4 * CLIENTS)]

    async def put(data: bytes) -> None:
        async with http.put("/v1/blobs", data=data) as answer:
            assert answer.status == 201
            assert answer.headers["Sixfold-Durability"] == "9/9; survives=3"

    await asyncio.gather(*(put(data) for data in made))
    return {blake3_digest(data).hex(): data for data in made}


async def explained(http: aiohttp.ClientSession, id_: str) -> dict[str, object]:
    async with http.get(f"/v1/blobs/{id_}/explain") as answer:
        (segment,) = (await answer.json())["segments"]
        assert [shard["state"] for shard in segment["shards"]] == ["present"] * 9
        return dict(segment)


async def test_they_are_contents_like_others(
    http: aiohttp.ClientSession, contents: dict[str, bytes]
) -> None:
    for id_, data in contents.items():
        async with http.get(f"/v1/blobs/{id_}") as answer:
            assert await answer.read() == data
            assert answer.headers["Sixfold-Segments"] == "1"
        async with http.get(f"/v1/blobs/{id_}", headers={"Range": "bytes=10-19"}) as answer:
            assert (answer.status, await answer.read()) == (206, data[10:20])
        async with http.head(f"/v1/blobs/{id_}") as answer:
            assert answer.headers["Content-Length"] == str(len(data))


async def test_they_share_segments(http: aiohttp.ClientSession, contents: dict[str, bytes]) -> None:
    segments = [await explained(http, id_) for id_ in contents]
    bundles = {segment["id"] for segment in segments if segment["bundle"]}
    assert 0 < len(bundles) < len(contents) / 2
    for id_, segment in zip(contents, segments, strict=True):
        assert (segment["id"] == id_) is not segment["bundle"]
    async with http.get(f"/v1/blobs/{bundles.pop()}") as answer:
        assert answer.status == 404  # no content itself


async def test_each_can_be_verified(
    http: aiohttp.ClientSession, contents: dict[str, bytes]
) -> None:
    for id_ in contents:
        async with http.post(f"/-/admin/verify/{id_}") as answer:
            said = await answer.json()
            assert (said["whole"], said["id_is_right"], said["segments"]) == (True, True, 1)


async def test_explained_in_words(http: aiohttp.ClientSession, contents: dict[str, bytes]) -> None:
    words = []
    for id_ in contents:
        async with http.get(f"/v1/blobs/{id_}/explain") as answer:
            words += explain_lines(await answer.json())
    assert any(line.startswith("in the bundle ") for line in words)

"""What an upload of known bytes says, and does, while some of their nodes are away."""

import io
from pathlib import Path

import aiohttp

from tests.blobs import content, id_of
from tests.load import in_thread, names
from tests.local_cluster import LocalCluster, local_cluster


async def put(http: aiohttp.ClientSession, cluster: LocalCluster, data: bytes) -> str:
    async with http.put(f"{cluster.url}/v1/blobs", data=io.BytesIO(data)) as answer:
        assert answer.status in (200, 201), await answer.text()
        durability: str = answer.headers["Sixfold-Durability"]
        return durability


async def test_known_bytes_count_where_their_nodes_are_there_and_are_written_anew_where_not(
    tmp_path: Path,
) -> None:
    with local_cluster(tmp_path) as cluster:
        async with aiohttp.ClientSession() as http:
            contents = [content(size, "away") for size in (5000, 7_000_000)]
            for data in contents:
                assert await put(http, cluster, data) == "9/9; survives=3"
            await in_thread(cluster.kill, *names(1, 2))
            await in_thread(cluster.wait_for, "suspect", *names(1, 2))
            for data in contents:
                assert await put(http, cluster, data) == "7/9; survives=1"
            await in_thread(cluster.kill, *names(3, 4))
            await in_thread(cluster.wait_for, "suspect", *names(3, 4))
            for data in contents:
                assert await put(http, cluster, data) == "9/9; survives=1"  # on five nodes
                async with http.get(f"{cluster.url}/v1/blobs/{id_of(data)}") as answer:
                    assert answer.headers["Sixfold-Durability"] == "9/9; survives=1"
                    assert await answer.read() == data

"""The metadata database is replaced by a backup of it, under real servers: what the jobs of the old
database would delete stays, and what was stored after the backup comes back."""

import asyncio
import json
import os
import shutil
import sqlite3
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import cast

import aiohttp
from blake3 import blake3

from common.auth import ClusterSecret
from coordinator.links import Link
from coordinator.remote_store import RemoteStore
from tests.local_cluster import run_sixfold
from tests.torture.servers import COORDINATOR, Servers, running

NODES = 3
DEADLINE_S = 300.0  # for what takes some seconds where nothing else runs
OPTIONS = ("--grace-s", "0", "--sweep-every-s", "0")


async def test_a_restored_backup_deletes_nothing(tmp_path: Path) -> None:
    async with running(tmp_path / "cluster", NODES, OPTIONS) as servers:
        kept, doomed, young = (os.urandom(5000) for _ in range(3))
        urls = await urls_of_nodes(servers)
        await put(servers, kept)
        await put(servers, doomed)
        backup = tmp_path / "backup.db"
        copy_database(database_of(servers), backup)
        mark_as_deleted(backup, doomed)
        servers.kill(COORDINATOR)
        await servers.start(COORDINATOR)  # a new session, of which the nodes hear
        await servers.until_active(["node-1", "node-2", "node-3"])
        await put(servers, young)
        await until_told(servers, await epoch_of(servers))
        servers.kill(COORDINATOR)
        restore(backup, database_of(servers))
        before = await listed(servers, urls)
        assert len(before) == 27
        await servers.start(COORDINATOR)
        await until_stopped(servers)
        assert await get(servers, kept) == kept
        assert await get(servers, doomed) is None
        assert await get(servers, young) is None  # the backup does not know it
        late = os.urandom(5000)
        await put(servers, late)  # PUTs go on
        assert before < await listed(servers, urls)
        # A node that reports for the first time after `allow-deletes` raises the alarm again.
        await until_told(servers, await epoch_of(servers))
        run_sixfold("--url", servers.url, "admin", "rebuild-metadata")
        for data in (kept, young, late):
            assert await get(servers, data) == data
        run_sixfold("--url", servers.url, "admin", "allow-deletes")
        await until_collected(servers, urls, doomed)
        for data in (kept, young, late):
            assert await get(servers, data) == data


def database_of(servers: Servers) -> Path:
    return servers.data(COORDINATOR) / "metadata.db"


def copy_database(source: Path, target: Path) -> None:
    with closing(sqlite3.connect(source)) as database:
        database.execute("VACUUM INTO ?", (str(target),))


def mark_as_deleted(database: Path, data: bytes) -> None:
    """As DELETE leaves it, for the collector to take at once."""
    id_ = blake3(data).digest()
    with closing(sqlite3.connect(database)) as opened, opened:
        opened.execute("DELETE FROM pin WHERE content = ?", (id_,))
        opened.execute("INSERT INTO collect_queue (content, unpinned_at) VALUES (?, 0)", (id_,))


def restore(backup: Path, database: Path) -> None:
    for file in database.parent.glob("metadata.db*"):
        file.unlink()
    shutil.copy(backup, database)


async def epoch_of(servers: Servers) -> int:
    with closing(sqlite3.connect(database_of(servers))) as database:
        (epoch,) = database.execute("SELECT sessions FROM cluster").fetchone()
        return int(epoch)


async def until_told(servers: Servers, epoch: int) -> None:
    async with asyncio.timeout(DEADLINE_S):
        while not all(known >= epoch for known in epochs_known(servers)):
            await asyncio.sleep(0.05)


def epochs_known(servers: Servers) -> list[int]:
    files = [servers.data(f"node-{n}") / "node.json" for n in range(1, NODES + 1)]
    return [json.loads(file.read_text())["epoch"] for file in files]


async def until_stopped(servers: Servers) -> None:
    async with asyncio.timeout(DEADLINE_S):
        while True:
            async with aiohttp.request("GET", f"{servers.url}/-/ready") as answer:
                said = await answer.json()
            if said["ready"] and said["deletes_stopped"]:
                break
            await asyncio.sleep(0.05)
    assert "older than the nodes" in said["deletes_stopped"]


async def put(servers: Servers, data: bytes) -> None:
    async with aiohttp.request("PUT", f"{servers.url}/v1/blobs", data=data) as answer:
        assert answer.status == 201, await answer.text()


async def get(servers: Servers, data: bytes) -> bytes | None:
    url = f"{servers.url}/v1/blobs/{blake3(data).hexdigest()}"
    async with aiohttp.request("GET", url) as answer:
        return await answer.read() if answer.status == 200 else None


async def until_collected(servers: Servers, urls: Sequence[str], data: bytes) -> None:
    async with asyncio.timeout(DEADLINE_S):
        while any(blake3(data).hexdigest() in shard for shard in await listed(servers, urls)):
            await asyncio.sleep(0.2)


async def listed(servers: Servers, urls: Sequence[str]) -> set[str]:
    """The addresses of all shards, as the nodes list them."""
    secret = ClusterSecret(servers.directory.secret.read_bytes().strip())
    async with aiohttp.ClientSession() as http:
        stores = [RemoteStore(cast(Link, None), url, secret, http) for url in urls]
        return {str(info.address) for store in stores async for info in store.list()}


async def urls_of_nodes(servers: Servers) -> list[str]:
    return [node["http_url"] for node in (await servers.nodes()).values()]

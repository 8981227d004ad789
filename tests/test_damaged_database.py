"""The metadata database of a running cluster is damaged: nobody is told anything that rests on it,
and the way out that the error names leads out."""

import random
import shutil
from pathlib import Path

import aiohttp

from common.units import KIB
from tests.database_files import backup, checkpoint, overwrite, root_page
from tests.load import Client, client_of, in_thread, names
from tests.local_cluster import LocalCluster, local_cluster, run_sixfold, sixfold

CONTENTS = 30


async def test_a_damaged_database_is_not_believed_and_a_backup_brings_all_back(
    tmp_path: Path,
) -> None:
    database, copy = tmp_path / "coordinator" / "metadata.db", tmp_path / "backup.db"
    with local_cluster(tmp_path) as cluster:
        async with client_of(cluster) as client:
            await client.put_many(CONTENTS)
            backup(database, copy)
            await client.put_many(CONTENTS)
            await damage(client, database)
            await expect_nothing_told(client)
            said = sixfold("--url", cluster.url, "jobs")
            assert (said.returncode, "Traceback" in said.stderr) == (8, False)
            assert "a backup in its place" in said.stderr
        await in_thread(cluster.kill, "coordinator")
        refused = sixfold("local", "start", "coordinator", "--dir", str(tmp_path))
        assert refused.returncode == 2
        assert "is damaged" in refused.stderr
        for name in ("metadata.db-wal", "metadata.db-shm"):
            database.with_name(name).unlink(missing_ok=True)
        shutil.copy(copy, database)
        await in_thread(cluster.local, "start", "coordinator")
        await in_thread(cluster.wait_for, "active", *names(*range(1, 10)))
        run_sixfold("--url", cluster.url, "admin", "rebuild-metadata")
        await check(cluster, client)


async def damage(client: Client, database: Path) -> None:
    """And let the coordinator find it."""
    checkpoint(database)
    for name in ("pin", "sqlite_autoindex_segment_1"):
        overwrite(database, root_page(database, name))
    async with client.http.put("/v1/blobs", data=random.Random(0).randbytes(100 * KIB)) as answer:
        assert answer.status == 503
        assert (await answer.json())["code"] == "metadata_damaged"


async def expect_nothing_told(client: Client) -> None:
    paths = ["/-/ready", "/-/admin/nodes", "/v1/blobs/" + 64 * "0"]
    for path in [*paths, *(f"/v1/blobs/{id_}" for id_ in client.acknowledged)]:
        async with client.http.get(path) as answer:
            said = await answer.json()
        assert (answer.status, said["code"]) == (503, "metadata_damaged"), path
        assert "a backup in its place" in said["message"]


async def check(cluster: LocalCluster, client: Client) -> None:
    """With a connection of its own: the coordinator's URL is another one since its start."""
    async with aiohttp.ClientSession(cluster.url) as client.http:
        await client.check_all()

"""Fault injection with real processes: nodes die, stop, rot and come back, under load; every
acknowledged content must be there, byte for byte, and errors must be errors."""

import asyncio
import random
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path

import aiohttp
import pytest
from blake3 import blake3

from common.errors import Unauthorized, WrongCluster, WrongNode
from common.units import GIB, KIB, MIB
from coordinator.config import SEGMENT_BYTES
from tests.load import client_of, in_thread, names
from tests.local_cluster import local_cluster, run_sixfold


async def test_nodes_killed_one_after_another_under_load(tmp_path: Path) -> None:
    with local_cluster(tmp_path) as cluster:
        async with client_of(cluster) as client:
            async with client.load():
                for name in names(1, 5, 9):
                    before = len(client.acknowledged)
                    await in_thread(cluster.kill, name)
                    while len(client.acknowledged) < before + 10:
                        await asyncio.sleep(0.01)
                    await in_thread(cluster.local, "start", name)
                    await in_thread(cluster.wait_for, "active", name)
            assert not client.refused
            await client.check_all()
            await in_thread(cluster.kill, *names(2, 5, 8))
            # The second to fifth killed may lack what was written while they were away.
            await in_thread(cluster.local, "start", *names(2, 5, 8))
            cluster.wait_for("active", *names(2, 5, 8))
            await client.check_all()


async def test_any_three_may_die_and_a_fourth_is_a_clear_error(tmp_path: Path) -> None:
    with local_cluster(tmp_path) as cluster:
        async with client_of(cluster) as client:
            await client.put_many(40)
            async with client.load():
                await in_thread(cluster.kill, *names(2, 4, 6))
                before = len(client.acknowledged)
                while len(client.acknowledged) < before + 20:
                    await asyncio.sleep(0.01)
            assert not client.refused
            await client.check_all()
            assert await client.put_one() == "9/9; survives=1"  # nine shards on six nodes
            with_nine_nodes = dict(list(client.acknowledged.items())[:40])
            everything, client.acknowledged = client.acknowledged, with_nine_nodes
            await in_thread(cluster.kill, "node-8")
            await client.expect_unreadable(missing=4)
            await in_thread(cluster.local, "start", *names(2, 4, 6, 8))
            cluster.wait_for("active", *names(2, 4, 6, 8))
            client.acknowledged = everything
            await client.check_all()


async def test_three_stopped_nodes_neither_hang_nor_harm(tmp_path: Path) -> None:
    with local_cluster(tmp_path) as cluster:
        async with client_of(cluster) as client:
            await client.put_many(20)
            await in_thread(cluster.local, "pause", *names(1, 2, 3))
            await client.check_all()
            cluster.wait_for("suspect", *names(1, 2, 3), deadline_s=10)
            await client.put_many(20)
            assert not client.refused
            await client.check_all()
            await in_thread(cluster.local, "pause", "node-4")
            cluster.wait_for("suspect", "node-4", deadline_s=10)
            first = dict(list(client.acknowledged.items())[:20])
            everything, client.acknowledged = client.acknowledged, first
            await client.expect_unreadable(missing=4)
            await in_thread(cluster.local, "resume", *names(1, 2, 3, 4))
            cluster.wait_for("active", *names(1, 2, 3, 4))
            client.acknowledged = everything
            await client.check_all()


def corrupt_volumes(directory: Path, seed: int) -> None:
    """Flip a byte in every 2 KiB of every volume, superblock included."""
    chance = random.Random(seed)
    for path in (directory / "volumes").glob("*.vol"):
        with path.open("r+b") as file:
            size = path.stat().st_size
            for start in range(0, size, 2 * KIB):
                at = start + chance.randrange(min(2 * KIB, size - start))
                file.seek(at)
                byte = file.read(1)[0]
                file.seek(at)
                file.write(bytes([byte ^ (1 << chance.randrange(8))]))


async def test_three_rotten_nodes_never_give_a_wrong_byte(tmp_path: Path) -> None:
    with local_cluster(tmp_path) as cluster:
        async with client_of(cluster) as client:
            for size in (10 * KIB, 100 * KIB, 700 * KIB, 13 * MIB) * 3:
                await client.put_one(size)
            for number in (3, 5, 7):
                corrupt_volumes(tmp_path / f"node-{number}", number)
            await in_thread(cluster.kill, "node-9")
            await in_thread(cluster.local, "start", "node-9")
            cluster.wait_for("active", "node-9")  # its caches are cold
            await client.check_all()
            corrupt_volumes(tmp_path / "node-1", 1)
            for id_, (seed, size) in client.acknowledged.items():
                async with client.http.get(f"/v1/blobs/{id_}") as answer:
                    if answer.status == 200:  # spared, or mended by now; at least its beginning
                        with suppress(aiohttp.ClientPayloadError):
                            assert await answer.read() == random.Random(seed).randbytes(size)
                    else:
                        said = await answer.json()
                        assert said["code"] == "unreadable", said
            # Whoever has the bytes heals what reads have found lost: a segment a round.
            for id_, (seed, size) in client.acknowledged.items():
                data = random.Random(seed).randbytes(size)
                for _ in range(1 + size // SEGMENT_BYTES):
                    await client.put_until_taken(data)
                    with suppress(aiohttp.ClientPayloadError):
                        async with client.http.get(f"/v1/blobs/{id_}") as answer:
                            await answer.read()
            await client.check_all()


async def test_a_coordinator_killed_under_load_loses_nothing(tmp_path: Path) -> None:
    with local_cluster(tmp_path) as cluster:
        async with client_of(cluster) as client:
            for _ in range(3):
                before = len(client.acknowledged)
                with pytest.raises(ExceptionGroup):
                    async with client.load():
                        while len(client.acknowledged) < before + 15:
                            await asyncio.sleep(0.01)
                        await in_thread(cluster.kill, "coordinator")
                        await asyncio.sleep(3600)  # until the load notices
                await in_thread(cluster.local, "start", "coordinator")
                await in_thread(cluster.wait_for, "active", *names(*range(1, 10)))
            await client.check_all()


@pytest.mark.parametrize("nodes", [3, 5, 8])
async def test_small_clusters_survive_any_one(tmp_path: Path, nodes: int) -> None:
    with local_cluster(tmp_path, nodes) as cluster:
        async with client_of(cluster) as client:
            await client.put_many(10)
            assert not client.refused
            for number in range(1, nodes + 1):
                await in_thread(cluster.kill, f"node-{number}")
                await client.check_all()
                await in_thread(cluster.local, "start", f"node-{number}")
                cluster.wait_for("active", f"node-{number}")


async def test_two_nodes_are_too_few(tmp_path: Path) -> None:
    with local_cluster(tmp_path, 3) as cluster:
        async with client_of(cluster) as client:
            await client.put_one()
            await in_thread(cluster.kill, "node-1")
            cluster.wait_for("suspect", "node-1")
            assert await client.put_one() == ""
            assert client.refused[0].startswith("503")
            await client.check_all()


async def test_fill_stays_even_and_new_nodes_catch_up(tmp_path: Path) -> None:
    async def reported() -> dict[str, int]:
        """What the nodes hold, once every one has reported after the last PUT."""
        nodes = await asyncio.to_thread(cluster.fresh_nodes)
        return {name: node["used_bytes"] for name, node in nodes.items()}

    with local_cluster(tmp_path) as cluster:
        async with client_of(cluster) as client:
            await client.put_many(150)
            first = await reported()
            spread_within(first, 0.05)
    with local_cluster(tmp_path, 12) as cluster:
        async with client_of(cluster, first_seed=1000) as client:
            await client.put_many(150)
            second = await reported()
            old = {name: size for name, size in second.items() if name in first}
            # Right after the start, uploads went to those that were back first: shards of 1 MiB.
            spread_within(old, 0.1)
            grown = {name: size - first.get(name, 0) for name, size in second.items()}
            new = [size for name, size in grown.items() if name not in first]
            assert min(new) > max(size for name, size in grown.items() if name in first)


def spread_within(used: dict[str, int], share: float) -> None:
    mean = sum(used.values()) / len(used)
    assert max(abs(size - mean) for size in used.values()) <= share * mean, used


async def test_data_stays_between_runs_and_metadata_can_be_rebuilt(tmp_path: Path) -> None:
    with local_cluster(tmp_path) as cluster:
        async with client_of(cluster) as client:
            await client.put_many(20)
            cluster_id = cluster.listing()["cluster_id"]
            remembered = client.acknowledged
    for file in (tmp_path / "coordinator").glob("metadata.db*"):
        file.unlink()
    with local_cluster(tmp_path, 9, "--adopt-cluster", cluster_id) as cluster:
        async with client_of(cluster) as client:
            client.acknowledged = remembered
            for id_ in remembered:
                async with client.http.get(f"/v1/blobs/{id_}") as answer:
                    assert answer.status == 404
            print(run_sixfold("--url", cluster.url, "admin", "rebuild-metadata"))
            await client.check_all()
            await client.put_many(5)
    with local_cluster(tmp_path) as cluster:
        async with client_of(cluster) as again:
            again.acknowledged = client.acknowledged
            await again.check_all()


async def test_memory_does_not_grow_with_the_content(tmp_path: Path) -> None:
    size, piece = 2 * GIB, 1 * MIB
    content_hash = blake3()

    async def body() -> AsyncIterator[bytes]:
        chance = random.Random(7)
        block = chance.randbytes(piece)
        for number in range(size // piece):
            data = number.to_bytes(8, "big") + block[8:]
            content_hash.update(data)
            yield data

    with local_cluster(tmp_path) as cluster:
        timeout = aiohttp.ClientTimeout(total=240)
        async with aiohttp.ClientSession(cluster.url, timeout=timeout) as http:
            async with http.put("/v1/blobs", data=body()) as answer:
                assert answer.status == 201, await answer.text()
                id_ = (await answer.json())["id"]
            assert id_ == content_hash.hexdigest()
            received = blake3()
            async with http.get(f"/v1/blobs/{id_}") as answer:
                async for chunk in answer.content.iter_any():
                    received.update(chunk)
            assert received.hexdigest() == id_
        assert cluster.rss_bytes("coordinator") < 300 * MIB
        for number in range(1, 10):
            assert cluster.rss_bytes(f"node-{number}") < 150 * MIB


async def test_a_directory_of_another_cluster_or_node_is_refused(tmp_path: Path) -> None:
    def command(url: str, directory: Path, name: str, secret: Path) -> list[str]:
        join = [sys.executable, "-m", "shardd", "--join", url, "--data", str(directory)]
        return [*join, "--name", name, "--secret-file", str(secret)]

    def join(url: str, directory: Path, name: str, secret: Path) -> tuple[int, str]:
        ended = subprocess.run(
            command(url, directory, name, secret), capture_output=True, text=True, timeout=60
        )
        return ended.returncode, ended.stderr

    def is_kept_out(url: str, directory: Path, name: str, secret: Path) -> None:
        """A member's copy might be the member, restarted: it may try on, in vain."""
        with subprocess.Popen(
            command(url, directory, name, secret), stderr=subprocess.PIPE, text=True
        ) as process:
            assert process.stderr is not None
            assert any("already served" in line for line in process.stderr)
            process.terminate()

    one, two = tmp_path / "one", tmp_path / "two"
    with local_cluster(one, 3) as cluster:
        await in_thread(cluster.kill, "node-3")
        secret = one / "secret"
        code, said = await asyncio.to_thread(join, cluster.url, one / "node-3", "node-2", secret)
        assert (code, "node-3" in said) == (WrongNode.exit_code, True), said
        shutil.copytree(one / "node-2", tmp_path / "copy")
        original = cluster.nodes()["node-2"]["http_url"]
        await in_thread(is_kept_out, cluster.url, tmp_path / "copy", "node-2", secret)
        assert cluster.nodes()["node-2"]["http_url"] == original
        cluster.wait_for("active", "node-1", "node-2")
    with local_cluster(two, 3) as cluster:
        secret = two / "secret"
        code, said = await asyncio.to_thread(join, cluster.url, one / "node-3", "node-3", secret)
        assert (code, "belongs to cluster" in said) == (WrongCluster.exit_code, True), said
        stranger = tmp_path / "stranger"
        wrong = one / "secret"
        code, said = await asyncio.to_thread(join, cluster.url, stranger, "node-9", wrong)
        assert (code, "secret" in said) == (Unauthorized.exit_code, True), said
        assert set(cluster.nodes()) == {"node-1", "node-2", "node-3"}

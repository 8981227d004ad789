"""The node as a process: its command line, its one line of output, and its death."""

import asyncio
import re
import signal
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager
from pathlib import Path

import aiohttp
import pytest

from common.errors import Conflict, Unauthorized
from common.ids import ShardAddress
from common.shards import ShardRecord
from shardd.identity import DataDirectory
from shardd.store import VolumeStore
from tests.private_files import open_to_others
from tests.server_process import server_process
from tests.stores import SECRET
from tests.test_shardd_heartbeat import Coordinator, serving

READY = re.compile(rb"ready http=(http://127\.0\.0\.1:\d+) data=127\.0\.0\.1:\d+\n")


def shardd(tmp_path: Path, *flags: str) -> AbstractAsyncContextManager[asyncio.subprocess.Process]:
    return server_process("shardd", tmp_path, SECRET.key, *flags)


@pytest.fixture
async def coordinator() -> AsyncIterator[Coordinator]:
    async with serving(Coordinator()) as running:
        yield running


async def output(process: asyncio.subprocess.Process) -> tuple[bytes, bytes]:
    out, err = await process.communicate()
    return out, err


async def test_a_life(tmp_path: Path, coordinator: Coordinator) -> None:
    flags = ("--join", coordinator.url, "--name", "n1", "--zone", "rack7")
    async with shardd(tmp_path, *flags) as process, aiohttp.ClientSession() as http:
        assert process.stdout is not None
        match = READY.fullmatch(await process.stdout.readline())
        assert match is not None
        async with http.get(match[1].decode() + "/-/ready") as answer:
            assert answer.status == 200
        assert open_to_others(tmp_path / "data") == []
        process.send_signal(signal.SIGTERM)
        out, err = await output(process)
    assert (process.returncode, out) == (0, b"")
    assert b"Traceback" not in err
    report = coordinator.reports[0]
    assert (report.name, report.zone, report.http_url) == ("n1", "rack7", match[1].decode())


async def test_stopping_before_anyone_answers(tmp_path: Path) -> None:
    async with serving(Coordinator()) as gone:
        url = gone.url
    async with shardd(tmp_path, "--join", url) as process:
        assert process.stderr is not None
        while b"cannot report" not in await process.stderr.readline():
            pass
        process.send_signal(signal.SIGINT)
        out, _ = await output(process)
    assert (process.returncode, out) == (0, b"")


async def _fails(tmp_path: Path, *flags: str) -> tuple[int | None, str]:
    async with shardd(tmp_path, *flags) as process:
        out, err = await output(process)
    assert out == b""
    assert b"Traceback" not in err
    return process.returncode, err.decode().splitlines()[-1]


async def test_wrong_settings(tmp_path: Path) -> None:
    for flags, message in (
        ((), "--join is required"),
        (("--join", "ftp://x"), "not a URL"),
        (("--join", "http://x", "--nam", "y"), "did you mean name"),
        (("--join", "http://x", "--port", "99999"), "not a port"),
        (("--join", "http://x", "--secret-file", "/nowhere"), "cannot be read"),
        (("--join", "http://x", "--config", "/nowhere"), "cannot be read"),
    ):
        code, line = await _fails(tmp_path, *flags)
        assert code == 2
        assert message in line


async def test_a_data_directory_that_cannot_be_used(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for path, message in (("file", "Not a directory"), ("file/below", "Not a directory")):
        code, line = await _fails(tmp_path, "--join", "http://x", "--data", str(tmp_path / path))
        assert (code, line) == (2, f"shardd: data {tmp_path / path}: {message}")


async def test_ports_in_use(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        for flag in ("--port", "--data-port"):
            code, line = await _fails(tmp_path, "--join", "http://x", flag, port)
            assert code == Conflict.exit_code
            assert line.startswith("shardd: ")
            assert line.endswith(f"{port}): address already in use")


async def test_refusals_have_their_exit_codes(tmp_path: Path, coordinator: Coordinator) -> None:
    coordinator.answer = Unauthorized("signature is wrong")
    code, line = await _fails(tmp_path, "--join", coordinator.url)
    assert (code, "signature is wrong" in line) == (Unauthorized.exit_code, True)
    directory = DataDirectory(tmp_path / "data")
    code, line = await _fails(tmp_path, "--join", coordinator.url)
    assert (code, "in use" in line) == (Conflict.exit_code, True)
    directory.close()


APPENDER = """
import asyncio, itertools, sys
from pathlib import Path
from shardd.identity import DataDirectory
from shardd.store import StoreLimits, VolumeStore
from tests.stores import make_shard

async def client(store, number):
    for count in itertools.count():
        shard = make_shard((300, 5000, 70_000)[count % 3], seed=number * 1_000_000 + count)
        await store.append([shard])
        print(shard.address, flush=True)

async def main():
    directory, limits = DataDirectory(Path(sys.argv[1])), StoreLimits(volume_bytes=2**20)
    store = await VolumeStore.open(directory, limits)
    await asyncio.gather(*(client(store, int(sys.argv[2]) * 8 + number) for number in range(8)))

asyncio.run(main())
"""


async def test_nothing_acknowledged_is_lost_to_kill_9(tmp_path: Path) -> None:
    acknowledged: list[ShardAddress] = []
    for life in range(4):
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-c", APPENDER, str(tmp_path), str(life),
            stdout=asyncio.subprocess.PIPE,
        )  # fmt: skip
        assert process.stdout is not None
        lines = [await process.stdout.readline() for _ in range(150 + 37 * life)]
        process.kill()
        rest, _ = await process.communicate()
        lines += [line for line in rest.splitlines(True) if line.endswith(b"\n")]
        acknowledged += [_address(line) for line in lines]
        if life == 2:
            (tmp_path / "index.db").unlink()
    directory = DataDirectory(tmp_path)
    store = await VolumeStore.open(directory)
    for address in acknowledged:
        (found,) = await store.read([address])
        assert isinstance(found, ShardRecord)
        assert found.is_intact()
    assert (await store.stat()).shards >= len(acknowledged) > 800
    await store.close()
    directory.close()


def _address(line: bytes) -> ShardAddress:
    return ShardAddress.parse(line.decode().strip())

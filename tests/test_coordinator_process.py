"""The coordinator as a process: its command line, its exit codes, and what it leaves on disk."""

import asyncio
import secrets
import signal
import socket
from contextlib import AbstractAsyncContextManager
from pathlib import Path

import pytest

from common.errors import BadSetting, Conflict
from tests.private_files import open_to_others
from tests.server_process import server_process


def coordinator(
    directory: Path, *flags: str
) -> AbstractAsyncContextManager[asyncio.subprocess.Process]:
    secret = secrets.token_hex(32).encode()
    return server_process("coordinator", directory, secret, "--port", "0", *flags)


async def test_what_it_writes_is_for_its_user_alone(tmp_path: Path) -> None:
    async with coordinator(tmp_path) as process:
        assert process.stdout is not None
        assert (await process.stdout.readline()).startswith(b"ready http=")
        data = tmp_path / "data"
        assert {path.name for path in data.iterdir()} >= {"metadata.db", "metadata.db-wal"}
        assert open_to_others(data) == []
        process.send_signal(signal.SIGTERM)
        assert await process.wait() == 0


async def refusal(directory: Path, *flags: str) -> tuple[int | None, str]:
    async with coordinator(directory, *flags) as process:
        out, err = await process.communicate()
    assert out == b""
    assert b"Traceback" not in err
    return process.returncode, err.decode().splitlines()[-1]


async def test_a_port_in_use(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        code, line = await refusal(tmp_path, "--port", str(port))
    assert code == Conflict.exit_code
    assert line == (f"coordinator: port {port}: address already in use; choose another with --port")


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--data", "{file}"], "data {file}: File exists"),
        (["--data", "{file}/below"], "data {file}/below: Not a directory"),
        (["--database", "sqlite:///{file}"], "database sqlite:///{file}: file is not a database"),
        (["--database", "sqlite:////nowhere/x"], "sqlite:////nowhere/x: unable to open"),
        (["--port", "abc"], "port: not a whole number: 'abc'"),
    ],
)
async def test_settings_that_cannot_be_used(tmp_path: Path, flags: list[str], words: str) -> None:
    file = tmp_path / "file"
    file.write_bytes(b"no database, no directory" * 100)
    code, line = await refusal(tmp_path, *(flag.format(file=file) for flag in flags))
    assert code == BadSetting.exit_code
    assert words.format(file=file) in line

"""The coordinator as a process: its command line, its exit codes, and what it leaves on disk."""

import asyncio
import contextlib
import secrets
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from tests.private_files import open_to_others, usual_umask


@asynccontextmanager
async def coordinator(directory: Path, *flags: str) -> AsyncIterator[asyncio.subprocess.Process]:
    secret_file = directory / "secret"
    secret_file.write_text(secrets.token_hex(32))
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "coordinator", "--data", str(directory / "data"),
        "--secret-file", str(secret_file), "--port", "0", *flags,
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE, preexec_fn=usual_umask,
    )  # fmt: skip
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.communicate()


async def test_what_it_writes_is_for_its_user_alone(tmp_path: Path) -> None:
    async with coordinator(tmp_path) as process:
        assert process.stdout is not None
        assert (await process.stdout.readline()).startswith(b"ready http=")
        data = tmp_path / "data"
        assert {path.name for path in data.iterdir()} >= {"metadata.db", "metadata.db-wal"}
        assert open_to_others(data) == []
        process.send_signal(signal.SIGTERM)
        assert await process.wait() == 0

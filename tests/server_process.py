"""A coordinator or a node as a process, as its own command line starts it."""

import asyncio
import contextlib
import os
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

from tests.private_files import usual_umask


@asynccontextmanager
async def server_process(
    module: str,
    directory: Path,
    secret: bytes,
    *flags: str,
    environment: Mapping[str, str] | None = None,
) -> AsyncIterator[asyncio.subprocess.Process]:
    """Its data is in `directory`/data; both outputs are pipes. `environment` is added to ours.
    Killed in the end."""
    secret_file = directory / "secret"
    secret_file.write_bytes(secret + b"\n")
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", module, "--data", str(directory / "data"),
        "--secret-file", str(secret_file), *flags,
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE, preexec_fn=usual_umask,
        env={**os.environ, **(environment or {})},
    )  # fmt: skip
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.communicate()

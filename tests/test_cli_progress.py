"""The progress bar: on a terminal, and only there."""

import asyncio
import os
import pty
import sys
from pathlib import Path

from tests.fake_coordinator import FakeCoordinator

DATA = bytes(3 << 20)


async def put(url: str, path: Path, stderr: int) -> bytes:
    """Standard output of a put."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "sixfold", "put", str(path),
        env={**os.environ, "SIXFOLD_URL": url, "COLUMNS": "120", "TERM": "xterm"},
        stdout=asyncio.subprocess.PIPE,
        stderr=stderr,
    )  # fmt: skip
    out, _ = await process.communicate()
    assert process.returncode == 0
    return out


async def test_bar_on_a_terminal(tmp_path: Path) -> None:
    (tmp_path / "film").write_bytes(DATA)
    ours, theirs = pty.openpty()
    try:
        async with FakeCoordinator().serving() as url:
            out = await put(url, tmp_path / "film", theirs)
        shown = os.read(ours, 1 << 16).decode()  # less than the terminal's buffer
    finally:
        os.close(ours)
        os.close(theirs)
    assert "3.0/3.0 MiB" in shown
    assert "film" in shown
    assert out.decode().endswith("film\n")
    assert b"MiB" not in out


async def test_no_bar_elsewhere(tmp_path: Path) -> None:
    (tmp_path / "film").write_bytes(DATA)
    with (tmp_path / "stderr").open("w") as stderr:
        async with FakeCoordinator().serving() as url:
            await put(url, tmp_path / "film", stderr.fileno())
    assert (tmp_path / "stderr").read_bytes() == b""

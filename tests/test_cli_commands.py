"""The `sixfold` command as a process: what it prints where, and its exit codes."""

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import uvloop
from blake3 import blake3

from sixfold import __version__
from sixfold.cli import as_interrupt
from tests.fake_coordinator import FakeCoordinator

DATA = bytes(range(256)) * 10_000
UNKNOWN = "0" * 64
NOBODY = "http://127.0.0.1:1"  # port 1 is reserved, and nobody but root may listen there


@dataclass
class Done:
    exit_code: int
    out: bytes
    err: str

    @property
    def lines(self) -> list[str]:
        return self.out.decode().splitlines()


@dataclass
class Cli:
    url: str
    directory: Path

    async def start(self, *arguments: str, **options: Any) -> asyncio.subprocess.Process:
        pipes = {"stdin": asyncio.subprocess.DEVNULL, "stdout": asyncio.subprocess.PIPE}
        root = Path(__file__).parent.parent
        return await asyncio.create_subprocess_exec(
            sys.executable, "-m", "sixfold", *arguments,
            cwd=self.directory,
            env={**os.environ, "SIXFOLD_URL": self.url, "PYTHONPATH": str(root)},
            **(pipes | {"stderr": asyncio.subprocess.PIPE} | options),
        )  # fmt: skip

    async def __call__(self, *arguments: str, stdin: bytes | None = None) -> Done:
        options = {} if stdin is None else {"stdin": asyncio.subprocess.PIPE}
        process = await self.start(*arguments, **options)
        out, err = await process.communicate(stdin)
        assert process.returncode is not None
        assert b"Traceback" not in err, err.decode()
        return Done(process.returncode, out, err.decode())


@pytest.fixture
def fake() -> FakeCoordinator:
    return FakeCoordinator()


@pytest.fixture
async def cli(fake: FakeCoordinator, tmp_path: Path) -> AsyncIterator[Cli]:
    async with fake.serving() as url:
        yield Cli(url, tmp_path)


def id_of(data: bytes) -> str:
    return blake3(data).hexdigest()


def names_in(directory: Path) -> list[str]:
    return [path.name for path in directory.iterdir()]


# Storing


async def test_put_prints_what_b3sum_prints(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "a b").write_bytes(DATA)
    (tmp_path / "empty").touch()
    done = await cli("put", "a b", "empty")
    assert done.lines == [f"{id_of(DATA)}  a b", f"{id_of(b'')}  empty"]
    assert (done.exit_code, done.err) == (0, "")


async def test_put_stdin(cli: Cli, fake: FakeCoordinator) -> None:
    done = await cli("put", "-", stdin=DATA)
    assert done.lines == [f"{id_of(DATA)}  -"]
    assert fake.contents[id_of(DATA)] == DATA


async def test_put_stdin_from_a_file(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(DATA)
    with (tmp_path / "file").open("rb") as file:
        process = await cli.start("put", "-", stdin=file)
        out, _ = await process.communicate()
    assert out.split()[0].decode() == id_of(DATA)


@pytest.mark.parametrize("name", ["", ".", ".."])
async def test_a_name_that_is_no_part_of_a_url_is_no_node(cli: Cli, name: str) -> None:
    for command in (["drain"], ["undrain"], ["remove"]):
        done = await cli(*command, name)
        assert (done.exit_code, done.err) == (3, f"sixfold: no node is called {name!r}\n")


async def test_put_goes_on_after_an_error(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(DATA)
    done = await cli("put", "missing", ".", "file")
    assert done.lines == [f"{id_of(DATA)}  file"]
    assert done.err.splitlines() == [
        "sixfold: missing: No such file or directory",
        "sixfold: .: Is a directory",
    ]
    assert done.exit_code == 1


async def test_put_json(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(DATA)
    done = await cli("put", "--json", "file", "missing")
    assert json.loads(done.out) == {
        "id": id_of(DATA),
        "size_bytes": len(DATA),
        "durability": "9/9; survives=3",
        "new": True,
        "name": "file",
    }
    error = json.loads(done.err)
    assert (error["code"], error["subject"]) == ("os_error", "missing")


async def test_put_says_what_is_not_durable_yet(
    cli: Cli, fake: FakeCoordinator, tmp_path: Path
) -> None:
    fake.durability = "8/9; survives=2"
    (tmp_path / "file").write_bytes(DATA)
    done = await cli("put", "file")
    assert done.exit_code == 0
    assert "file: stored, but not every shard is durable yet: 8/9; survives=2" in done.err


async def test_put_prints_any_file_name(cli: Cli, tmp_path: Path) -> None:
    name = os.fsdecode(b"not \xff utf-8")
    (tmp_path / name).write_bytes(b"x")
    assert (await cli("put", name)).out == f"{id_of(b'x')}  ".encode() + b"not \xff utf-8\n"


# Reading


async def test_get_to_a_file_and_to_stdout(cli: Cli, fake: FakeCoordinator, tmp_path: Path) -> None:
    fake.contents[id_of(DATA)] = DATA
    done = await cli("get", id_of(DATA), "-o", "back")
    assert (done.exit_code, done.out, done.err) == (0, b"", "")
    assert (tmp_path / "back").read_bytes() == DATA
    assert (await cli("get", id_of(DATA), "-o", "-")).out == DATA


async def test_get_of_wrong_bytes_to_stdout_ends_in_an_error(
    cli: Cli, fake: FakeCoordinator
) -> None:
    fake.contents[id_of(DATA)], fake.flip = DATA, True
    done = await cli("get", id_of(DATA), "-o", "-")
    assert done.exit_code == 7
    assert done.err.startswith(f"sixfold: what was sent as {id_of(DATA)} hashes to ")


async def test_get_json(cli: Cli, fake: FakeCoordinator) -> None:
    fake.contents[id_of(DATA)] = DATA
    done = await cli("--json", "get", id_of(DATA), "-o", "back")
    assert json.loads(done.out) == {"id": id_of(DATA), "size_bytes": len(DATA), "path": "back"}


async def test_get_into_a_pipe_that_is_closed(cli: Cli, fake: FakeCoordinator) -> None:
    fake.contents[id_of(DATA)] = DATA
    reader, writer = os.pipe()
    os.close(reader)
    process = await cli.start("get", id_of(DATA), "-o", "-", stdout=writer)
    os.close(writer)
    _, err = await process.communicate()
    assert process.returncode == 1
    assert b"Traceback" not in err


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_interrupted_get_leaves_nothing(
    cli: Cli, fake: FakeCoordinator, tmp_path: Path, number: signal.Signals
) -> None:
    fake.hang = True
    process = await cli.start("get", UNKNOWN, "-o", "back")
    while not names_in(tmp_path):  # what has come so far, under another name
        assert process.returncode is None
        await asyncio.sleep(0.01)
    process.send_signal(number)
    out, err = await process.communicate()
    assert (process.returncode, out, err) == (130, b"", b"")
    assert names_in(tmp_path) == []


@pytest.fixture
def handlers() -> Iterator[Callable[[Any], Any]]:
    """Sets what becomes of SIGINT, and SIGTERM to what the command does."""
    before = [(number, signal.getsignal(number)) for number in (signal.SIGINT, signal.SIGTERM)]
    signal.signal(signal.SIGTERM, as_interrupt)
    yield partial(signal.signal, signal.SIGINT)
    for number, handler in before:
        signal.signal(number, handler)


def test_sigterm_is_heard_where_sigint_is_not(handlers: Callable[[Any], Any]) -> None:
    handlers(signal.SIG_IGN)
    with pytest.raises(KeyboardInterrupt):
        os.kill(os.getpid(), signal.SIGTERM)


def test_sigterm_cancels_what_runs(handlers: Callable[[Any], Any]) -> None:
    """As SIGINT does. An exception in the midst of anything ends as an error of that."""
    handlers(signal.default_int_handler)
    went_on = []

    async def work() -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        went_on.append(True)
        await asyncio.Event().wait()

    with pytest.raises(KeyboardInterrupt):
        uvloop.run(work())
    assert went_on


async def test_interrupted_put_from_a_terminal_or_pipe_does_not_wait_for_it(
    cli: Cli, fake: FakeCoordinator
) -> None:
    process = await cli.start("put", "-", stdin=asyncio.subprocess.PIPE)
    while not fake.bodies:
        await asyncio.sleep(0.01)
    process.send_signal(signal.SIGINT)
    assert await process.wait() == 130


# Everything else


async def test_stat(cli: Cli, fake: FakeCoordinator) -> None:
    fake.contents[id_of(DATA)] = DATA
    done = await cli("stat", id_of(DATA))
    assert done.lines == [
        f"id          {id_of(DATA)}",
        "size        2560000 bytes (2.4 MiB)",
        "segments    1",
        "created     2026-01-02T03:04:05+00:00",
        "durability  9/9; survives=3",
    ]
    several = await cli("stat", "--json", UNKNOWN, "nonsense", id_of(DATA))
    assert json.loads(several.out)["size_bytes"] == len(DATA)
    codes = [json.loads(line)["code"] for line in several.err.splitlines()]
    assert (codes, several.exit_code) == (["not_found", "malformed_id"], 3)


async def test_rm(cli: Cli, fake: FakeCoordinator) -> None:
    fake.contents[id_of(DATA)] = DATA
    done = await cli("rm", id_of(DATA))
    assert (done.lines, fake.contents) == ([f"deleted {id_of(DATA)}"], {})
    again = await cli("rm", "--json", id_of(DATA))
    assert (again.exit_code, again.out) == (3, b"")


async def test_nodes(cli: Cli) -> None:
    lines = (await cli("nodes")).lines
    assert [line.split()[0] for line in lines[-3:]] == ["NODE", "node-1", "node-2"]
    assert "25.0%" in lines[-2]
    assert "never" in lines[-1]
    found = [json.loads(line) for line in (await cli("nodes", "--json")).lines]
    assert [(node["name"], node["state"]) for node in found] == [
        ("node-1", "active"),
        ("node-2", "lost"),
    ]


@pytest.mark.parametrize("place", ["before", "after"])
async def test_url_on_either_side_of_the_command(cli: Cli, place: str) -> None:
    url = ["--url", NOBODY]
    done = await cli(*url, "nodes") if place == "before" else await cli("nodes", *url)
    assert done.exit_code == 8
    assert done.err == f"sixfold: cannot reach {NOBODY}: is the cluster up?\n"


async def test_server_errors_keep_class_and_words(cli: Cli, fake: FakeCoordinator) -> None:
    fake.refuse = (507, "storage_full", "every node is full")
    done = await cli("nodes", "--json")
    assert json.loads(done.err) == {"code": "storage_full", "message": "every node is full"}
    assert done.exit_code == 9


@pytest.mark.parametrize(
    "arguments", [["put"], ["get", UNKNOWN], ["--nonsense"], ["nonsense"], ["up", "--nodes", "2"]]
)
async def test_wrong_usage_is_one_line(cli: Cli, arguments: list[str]) -> None:
    done = await cli(*arguments)
    assert (done.exit_code, done.out, done.err.count("\n")) == (2, b"", 1)
    assert done.err.startswith("sixfold: ")


async def test_version_and_help(cli: Cli) -> None:
    assert (await cli("--version")).lines == [f"sixfold {__version__}"]
    bare, asked = await cli(), await cli("--help")
    assert bare == asked
    assert b"put" in asked.out


@pytest.mark.parametrize("server", ["coordinator", "shardd"])
async def test_servers_get_their_arguments_untouched(cli: Cli, server: str) -> None:
    (cli.directory / "common").mkdir()  # must not be taken for the project's
    done = await cli(server, "--help")
    assert done.out.decode().startswith(f"usage: {server}")
    refused = await cli(server, "--nonsense", "1")
    assert (refused.exit_code, refused.out) == (2, b"")


async def test_help_imports_neither_http_nor_progress(cli: Cli) -> None:
    code = "import sys, sixfold.cli; print(*(n for n in ('aiohttp', 'rich') if n in sys.modules))"
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", code, stdout=asyncio.subprocess.PIPE
    )
    out, _ = await process.communicate()
    assert out == b"\n"

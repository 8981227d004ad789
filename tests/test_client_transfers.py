"""The client library against a coordinator in memory that misbehaves on demand."""

import asyncio
import os
import socket
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from pathlib import Path

import pytest
from blake3 import blake3

from common.errors import (
    BadRequest,
    BadSetting,
    Corrupt,
    IdMismatch,
    IncompleteBody,
    NotFound,
    Overloaded,
    ProtocolError,
    TooLarge,
    Unavailable,
)
from common.ids import ContentId
from common.units import MIB
from sixfold.client import Client
from sixfold.files import descriptor_source
from tests.fake_coordinator import OTHER_ID, FakeCoordinator

DATA = bytes(range(256)) * 20_000  # 5 MB: several reads


@pytest.fixture
def fake() -> FakeCoordinator:
    return FakeCoordinator()


@pytest.fixture
async def client(fake: FakeCoordinator) -> AsyncIterator[Client]:
    async with fake.serving() as url, Client(url) as client:
        yield client


def id_of(data: bytes) -> ContentId:
    return ContentId(blake3(data).digest())


def files_in(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


async def chunks(*pieces: bytes) -> AsyncIterator[bytes]:
    for piece in pieces:
        yield piece


def store(fake: FakeCoordinator, data: bytes) -> ContentId:
    id_ = id_of(data)
    fake.contents[str(id_)] = data
    return id_


# Storing


@pytest.mark.parametrize("size", [0, 1, 3 * MIB])
async def test_put_file_declares_what_it_sends(
    fake: FakeCoordinator, client: Client, tmp_path: Path, size: int
) -> None:
    (tmp_path / "file").write_bytes(DATA[:size])
    stored = await client.put_file(tmp_path / "file")
    assert (stored.id, stored.size_bytes, stored.new) == (id_of(DATA[:size]), size, True)
    assert fake.contents[str(stored.id)] == DATA[:size]
    assert fake.headers.get("Content-Length") == (str(size) if size else None)


async def test_put_stream_of_unknown_length(fake: FakeCoordinator, client: Client) -> None:
    stored = await client.put(chunks(b"six", b"", b"fold"))
    assert stored.id == id_of(b"sixfold")
    assert fake.headers["Transfer-Encoding"] == "chunked"


async def test_progress_grows_to_the_whole(client: Client, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(DATA)
    told: list[tuple[int, int | None]] = []
    await client.put_file(tmp_path / "file", lambda *now: told.append(now))
    assert told == sorted(told)
    assert told[-1] == (len(DATA), len(DATA))


async def test_put_of_what_arrives_as_something_else(fake: FakeCoordinator, client: Client) -> None:
    fake.wrong_id = True
    with pytest.raises(IdMismatch, match=OTHER_ID):
        await client.put(chunks(b"data"))


async def test_put_of_fewer_bytes_than_declared(client: Client) -> None:
    with pytest.raises(IncompleteBody, match="4 bytes where 10"):
        await client.put(chunks(b"data"), 10)


async def test_put_of_more_bytes_than_declared(client: Client) -> None:
    with pytest.raises(BadRequest, match="more bytes than the 3"):
        await client.put(chunks(b"sixfold"), 3)


async def test_put_raises_what_its_source_raises(client: Client) -> None:
    async def broken() -> AsyncIterator[bytes]:
        yield b"data"
        raise PermissionError(13, "Permission denied")

    with pytest.raises(PermissionError):
        await client.put(broken())


async def test_large_upload_is_refused_before_it_is_sent(
    fake: FakeCoordinator, client: Client, tmp_path: Path
) -> None:
    fake.refuse = (413, "too_large", "at most 1 MiB")
    (tmp_path / "file").write_bytes(DATA)
    told: list[int] = []
    with pytest.raises(TooLarge, match="at most 1 MiB"):
        await client.put_file(tmp_path / "file", lambda done, _: told.append(done))
    assert (told, fake.bodies) == ([], 0)


async def test_put_file_that_grows_stores_its_first_length(client: Client, tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_bytes(DATA)

    def grow(done_bytes: int, size_bytes: int | None) -> None:
        with path.open("ab") as file:
            file.write(b"more")

    assert (await client.put_file(path, grow)).id == id_of(DATA)


async def test_put_from_a_pipe(client: Client) -> None:
    reader, writer = os.pipe()

    def feed() -> None:
        with os.fdopen(writer, "wb") as file:
            file.write(DATA)

    thread = threading.Thread(target=feed)
    thread.start()
    try:
        async with descriptor_source(reader) as source:
            assert (await client.put(source)).id == id_of(DATA)
    finally:
        os.close(reader)
        thread.join()


# Reading


async def test_get_file(fake: FakeCoordinator, client: Client, tmp_path: Path) -> None:
    id_, path = store(fake, DATA), tmp_path / "back"
    path.write_bytes(b"old")
    told: list[tuple[int, int | None]] = []
    assert await client.get_file(id_, path, lambda *now: told.append(now)) == len(DATA)
    assert path.read_bytes() == DATA
    assert told[-1] == (len(DATA), len(DATA))
    assert files_in(tmp_path) == ["back"]


async def test_get_file_keeps_a_symbolic_link(
    fake: FakeCoordinator, client: Client, tmp_path: Path
) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "target")
    await client.get_file(store(fake, DATA), tmp_path / "link")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "target").read_bytes() == DATA


async def test_get_to_a_device_writes_to_it(fake: FakeCoordinator, client: Client) -> None:
    null = Path("/dev/null")
    await client.get_file(store(fake, DATA), null)
    assert await asyncio.to_thread(null.is_char_device)


async def refused_get(client: Client, id_: ContentId, directory: Path) -> None:
    """A get that fails must leave what was there, and nothing else."""
    path = directory / "back"
    path.write_bytes(b"old")
    try:
        await client.get_file(id_, path)
    finally:
        assert path.read_bytes() == b"old"
        assert files_in(directory) == ["back"]


async def test_get_of_wrong_bytes(fake: FakeCoordinator, client: Client, tmp_path: Path) -> None:
    fake.flip = True
    with pytest.raises(Corrupt, match="hashes to"):
        await refused_get(client, store(fake, DATA), tmp_path)


async def test_get_that_is_cut_off(fake: FakeCoordinator, client: Client, tmp_path: Path) -> None:
    fake.truncate = True
    with pytest.raises(Unavailable, match="broke off"):
        await refused_get(client, store(fake, DATA), tmp_path)


async def test_get_of_unknown_content(client: Client, tmp_path: Path) -> None:
    with pytest.raises(NotFound, match=str(id_of(b"x"))):
        await refused_get(client, id_of(b"x"), tmp_path)


async def test_get_that_is_cancelled(fake: FakeCoordinator, client: Client, tmp_path: Path) -> None:
    fake.hang = True
    task = asyncio.create_task(refused_get(client, store(fake, DATA), tmp_path))
    while len(files_in(tmp_path)) < 2:  # the old file, and the new one as far as it has come
        await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_get_to_a_full_disk(fake: FakeCoordinator, client: Client) -> None:
    with pytest.raises(OSError, match="No space left"):
        await client.get_file(store(fake, DATA), Path("/dev/full"))


async def test_get_into_a_directory(fake: FakeCoordinator, client: Client, tmp_path: Path) -> None:
    with pytest.raises(IsADirectoryError):
        await client.get_file(store(fake, DATA), tmp_path)


# Everything else


async def test_stat(fake: FakeCoordinator, client: Client) -> None:
    found = await client.stat(store(fake, DATA))
    assert (found.size_bytes, found.segments, found.durability) == (len(DATA), 1, "9/9; survives=3")


async def test_stat_of_unknown_content_has_no_words_to_go_by(client: Client) -> None:
    with pytest.raises(NotFound, match=str(id_of(b"x"))):
        await client.stat(id_of(b"x"))


async def test_delete(fake: FakeCoordinator, client: Client) -> None:
    id_ = store(fake, DATA)
    await client.delete(id_)
    assert fake.contents == {}
    with pytest.raises(NotFound):
        await client.delete(id_)


async def test_nodes(client: Client) -> None:
    cluster = await client.nodes()
    assert [node.name for node in cluster.nodes] == ["node-1", "node-2"]
    assert cluster.nodes[1].used_bytes is None


async def test_not_ready(client: Client) -> None:
    assert not await client.ready()


async def test_errors_come_back_as_their_class(fake: FakeCoordinator, client: Client) -> None:
    fake.refuse = (503, "overloaded", "no memory left")
    with pytest.raises(Overloaded, match="no memory left"):
        await client.nodes()


async def test_something_else_answers(fake: FakeCoordinator, client: Client) -> None:
    fake.garbage = True
    calls: Iterable[Callable[[], Awaitable[object]]] = (
        client.nodes,
        lambda: client.put(chunks(b"data")),
    )
    for call in calls:
        with pytest.raises(ProtocolError, match="coordinator"):
            await call()


async def test_a_delete_whose_answer_is_lost(fake: FakeCoordinator, client: Client) -> None:
    """Asked again behind the caller's back, the server would say that there is no such content."""
    id_, fake.lose_answers = store(fake, DATA), 1
    with pytest.raises(Unavailable, match="lost the connection"):
        await client.delete(id_)
    assert str(id_) not in fake.contents


async def test_nobody_listens() -> None:
    with socket.socket() as taken:  # bound, so that nobody else listens there meanwhile
        taken.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{taken.getsockname()[1]}"
        async with Client(url) as client:
            with pytest.raises(Unavailable, match=f"cannot reach {url}: is the cluster up"):
                await client.nodes()


@pytest.mark.parametrize("url", ["over there", "ftp://there", "http://", "http://there:99999"])
async def test_not_a_url(url: str) -> None:
    async with Client(url) as client:
        with pytest.raises(BadSetting, match=r"not an http or https URL: .*(there|http:)"):
            await client.nodes()


async def test_silence_ends_a_request(fake: FakeCoordinator) -> None:
    fake.hang = True
    async with fake.serving() as url, Client(url, silence_s=0.05) as client:
        with pytest.raises(Unavailable, match="silent"):
            await client.nodes()
        with pytest.raises(Unavailable, match="silent"):
            await client.put(chunks(b"data"))


async def test_a_slow_source_is_no_silence(fake: FakeCoordinator) -> None:
    async def slow() -> AsyncIterator[bytes]:
        yield b"six"
        await asyncio.sleep(0.2)  # longer than the client waits for the server
        yield b"fold"

    async with fake.serving() as url, Client(url, silence_s=0.1) as client:
        assert (await client.put(slow())).id == id_of(b"sixfold")

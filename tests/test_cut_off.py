"""Once the headers are out, whatever goes wrong cuts the connection: an answer that is not the
content never ends as if it were."""

from collections.abc import AsyncIterator, Callable
from pathlib import Path

import aiohttp
import pytest

from coordinator.metadata import StoredSegment
from tests.blobs import content, put
from tests.torture.cutoff import SEGMENT, SEGMENTS, SETTINGS, ask, lines, tell
from tests.whole_path import Bed, memory_bed

DATA = content(SEGMENTS * SEGMENT - 77, "cut off")
LATER = range(SEGMENTS // 2, SEGMENTS)  # far enough behind what is fetched ahead


@pytest.fixture
async def bed(tmp_path: Path) -> AsyncIterator[Bed]:
    async with memory_bed(tmp_path, jobs=False, **SETTINGS) as running:
        yield running


REQUESTS: dict[str, tuple[str, tuple[str, ...], int]] = {
    "HTTP/1.1": ("HTTP/1.1", (), 0),
    "HTTP/1.0": ("HTTP/1.0", (), 0),
    "closing": ("HTTP/1.1", ("Connection: close",), 0),
    "chunks wanted": ("HTTP/1.1", ("TE: chunked, trailers",), 0),
    "a range": ("HTTP/1.1", ("Range: bytes=1000-",), 1000),
}


def gone(bed: Bed, segment: StoredSegment) -> None:
    for index in (1, 3, 5, 7):
        bed.lose(segment, index)


def rotten(bed: Bed, segment: StoredSegment) -> None:
    for index in (0, 2, 4, 8):
        bed.rot(segment, index)


@pytest.mark.parametrize("harm", [gone, rotten])
@pytest.mark.parametrize("name", REQUESTS)
async def test_too_many_bad_shards_behind_the_headers_cut_the_connection(
    bed: Bed, name: str, harm: Callable[[Bed, StoredSegment], None]
) -> None:
    version, headers, start = REQUESTS[name]
    id_ = await put(bed.http, DATA)
    segments = await bed.segments(id_)
    for number in LATER:
        harm(bed, segments[number])
    head, body = await ask(bed, lines(id_, version, *headers))
    assert head.split(b" ")[1] in (b"200", b"206")
    assert b"transfer-encoding" not in head.lower()
    assert f"content-length: {len(DATA) - start}".encode() in head.lower()
    assert len(body) < len(DATA) - start
    assert DATA[start:].startswith(body)


@pytest.mark.parametrize("name", REQUESTS)
async def test_nodes_that_go_while_it_is_sent_cut_the_connection(bed: Bed, name: str) -> None:
    """Whatever of it is on its way already, it is never more than was read."""
    version, headers, start = REQUESTS[name]
    id_ = await put(bed.http, DATA)
    fourth = (await bed.segments(id_))[4]
    tell(bed, fourth, lambda: bed.away(1, 2, 3, 4))
    _, body = await ask(bed, lines(id_, version, *headers))
    assert 0 < len(body) < len(DATA) - start
    assert DATA[start:].startswith(body)


async def test_a_defect_behind_the_headers_cuts_the_connection_too(bed: Bed) -> None:
    """Not even the error that says so may stand where bytes of the content belong."""
    id_ = await put(bed.http, DATA)
    sixth = (await bed.segments(id_))[6]

    def fail() -> None:
        raise RuntimeError("a defect")

    tell(bed, sixth, fail)
    _, body = await ask(bed, lines(id_, "HTTP/1.1"))
    assert 0 < len(body) < len(DATA)
    assert DATA.startswith(body)


async def test_clients_hear_of_it(bed: Bed) -> None:
    id_ = await put(bed.http, DATA)
    gone(bed, (await bed.segments(id_))[-1])
    async with bed.http.get(f"/v1/blobs/{id_}") as answer:
        assert answer.status == 200
        with pytest.raises((aiohttp.ClientPayloadError, aiohttp.ClientConnectionError)):
            await answer.read()


async def test_before_the_headers_it_is_a_plain_error(bed: Bed) -> None:
    id_ = await put(bed.http, DATA)
    gone(bed, (await bed.segments(id_))[0])
    async with bed.http.get(f"/v1/blobs/{id_}") as answer:
        assert (answer.status, (await answer.json())["code"]) == (503, "unreadable")
    async with bed.http.get(f"/v1/blobs/{id_}", headers={"Range": f"bytes={SEGMENT}-"}) as answer:
        assert await answer.read() == DATA[SEGMENT:]
    assert bed.coordinator.buffers.used_bytes == 0

"""Request bodies as they arrive: bounded, timed, and honest about how they ended."""

import asyncio
from collections.abc import AsyncIterator, Awaitable
from functools import partial

import aiohttp
from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError
from multidict import CIMultiDictProxy

from common.errors import BodyTimeout, IncompleteBody, TooLarge, UnsupportedEncoding
from common.units import KIB, format_bytes

PART_CHUNK_BYTES = 256 * KIB

IDENTITY = frozenset({"identity"})
CHUNKED = frozenset({"chunked"})
TRANSPARENT = frozenset({"7bit", "8bit", "binary"})


def check_headers(request: web.BaseRequest, max_bytes: int) -> None:
    """Refuse what can be refused before a byte is read.

    Raises UnsupportedEncoding for encoded bytes and TooLarge for a declared length.
    """
    _check_encoding(request.headers, "Content-Encoding", IDENTITY)
    _check_encoding(request.headers, "Transfer-Encoding", CHUNKED)
    if request.content_length is not None and request.content_length > max_bytes:
        raise TooLarge(
            f"{request.content_length} bytes are too many: "
            f"an upload has at most {max_bytes} ({format_bytes(max_bytes)})"
        )


def check_part_headers(part: aiohttp.BodyPartReader) -> None:
    """As check_headers, for one file of a form."""
    _check_encoding(part.headers, "Content-Encoding", IDENTITY)
    _check_encoding(part.headers, "Content-Transfer-Encoding", TRANSPARENT)


def _check_encoding(headers: CIMultiDictProxy[str], name: str, plain: frozenset[str]) -> None:
    for value in headers.getall(name, ()):  # a second header must not slip past the first
        encoding = value.strip().lower()
        if encoding and encoding not in plain:
            raise UnsupportedEncoding(
                f"{name} {encoding[:40]!r} is not taken: send the bytes that shall be stored"
            )


async def chunks(request: web.Request, idle_s: float) -> AsyncIterator[bytes]:
    """The body. Raises IncompleteBody if it ends early, BodyTimeout if it stalls."""
    content = request.content
    if early := _at_hand(content):
        yield early
    # In chunked encoding a piece may be a byte: only then it pays to join what has come.
    following = content.readany if request.content_length is None else partial(_piece, content)
    while chunk := await _timed(following(), idle_s):
        yield chunk


def _at_hand(content: aiohttp.StreamReader) -> bytes:
    """What came with the headers, of a small body all. It needs no clock."""
    try:
        return content.read_nowait()
    except (aiohttp.ClientError, ConnectionError, web.RequestPayloadError) as error:
        raise IncompleteBody(f"the body ended early: {error}") from None


async def _piece(content: aiohttp.StreamReader) -> bytes:
    """The next piece as the socket gave it; empty at the end."""
    return (await content.readchunk())[0]


async def part_chunks(part: aiohttp.BodyPartReader, idle_s: float) -> AsyncIterator[bytes]:
    """One file of a form, likewise."""
    while not part.at_eof():
        try:
            chunk = await _timed(part.read_chunk(PART_CHUNK_BYTES), idle_s)
        except (ValueError, AssertionError, HttpProcessingError) as error:
            raise IncompleteBody(f"the form is cut short or malformed: {error}") from None
        if chunk:
            yield chunk


async def _timed(step: Awaitable[bytes], idle_s: float) -> bytes:
    try:
        async with asyncio.timeout(idle_s):
            return await step
    except TimeoutError:
        raise BodyTimeout(f"nothing arrived for {idle_s} s") from None
    except (aiohttp.ClientError, ConnectionError, web.RequestPayloadError) as error:
        raise IncompleteBody(f"the body ended early: {error}") from None

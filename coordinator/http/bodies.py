"""Request bodies as they arrive: bounded, timed, and honest about how they ended."""

import asyncio
from collections.abc import AsyncIterator, Awaitable

import aiohttp
from aiohttp import web

from common.errors import BodyTimeout, IncompleteBody, TooLarge, UnsupportedEncoding
from common.units import KIB, format_bytes

PART_CHUNK_BYTES = 256 * KIB


def check_headers(request: web.BaseRequest, max_bytes: int) -> None:
    """Refuse what can be refused before a byte is read.

    Raises UnsupportedEncoding for a Content-Encoding and TooLarge for a declared length.
    """
    encoding = request.headers.get("Content-Encoding", "identity").strip().lower()
    if encoding not in ("", "identity"):
        raise UnsupportedEncoding(
            f"Content-Encoding {encoding!r} is not taken: send the bytes that shall be stored"
        )
    if request.content_length is not None and request.content_length > max_bytes:
        raise TooLarge(
            f"{request.content_length} bytes are too many: "
            f"an upload has at most {max_bytes} ({format_bytes(max_bytes)})"
        )


async def chunks(request: web.Request, idle_s: float) -> AsyncIterator[bytes]:
    """The body. Raises IncompleteBody if it ends early, BodyTimeout if it stalls."""
    while chunk := await _timed(request.content.readany(), idle_s):
        yield chunk


async def part_chunks(part: aiohttp.BodyPartReader, idle_s: float) -> AsyncIterator[bytes]:
    """One file of a form, likewise."""
    while not part.at_eof():
        if chunk := await _timed(part.read_chunk(PART_CHUNK_BYTES), idle_s):
            yield chunk


async def _timed(step: Awaitable[bytes], idle_s: float) -> bytes:
    try:
        async with asyncio.timeout(idle_s):
            return await step
    except TimeoutError:
        raise BodyTimeout(f"nothing arrived for {idle_s} s") from None
    except (aiohttp.ClientError, ConnectionError, web.RequestPayloadError) as error:
        raise IncompleteBody(f"the body ended early: {error}") from None

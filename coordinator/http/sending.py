"""Sends the pieces of a large answer, and gives their memory back as soon as it can."""

import asyncio
import logging
from collections.abc import AsyncIterator

from aiohttp import web

from common.errors import SixfoldError
from coordinator.letting_go import let_go
from coordinator.read_ahead import Piece

log = logging.getLogger(__name__)


async def send_pieces(
    request: web.Request,
    response: web.StreamResponse,
    pieces: AsyncIterator[Piece],
    idle_s: float,
) -> None:
    """Headers and pieces. Once the headers are out, a failure cuts the connection: a clean end
    would be a lie."""
    transport = request.transport
    if transport is None:
        return  # the client has gone
    # With no buffer of its own, drain means that the kernel has the bytes: memory is free again.
    transport.set_write_buffer_limits(high=0)
    response.content_type = "application/octet-stream"
    try:
        await response.prepare(request)
        async for piece in pieces:
            await send_piece(response, transport, piece, idle_s)
        await response.write_eof()
    except (SixfoldError, OSError) as error:
        transport.abort()
        if isinstance(error, SixfoldError):
            log.error("%s: cut off while sending: %s", request.path, error)
    except BaseException:  # a defect too: the answer that tells of it would pass for content
        transport.abort()
        raise


async def send_piece(
    response: web.StreamResponse, transport: asyncio.WriteTransport, piece: Piece, idle_s: float
) -> None:
    """Raises TimeoutError, an OSError, for a client that takes nothing for `idle_s`: it must not
    hold the memory for as long as it likes."""
    try:
        await _until_taken(response, transport, piece.data, idle_s)
    except BaseException as error:
        let_go(error)
        piece.abandon()
        raise
    piece.release()


async def _until_taken(
    response: web.StreamResponse,
    transport: asyncio.WriteTransport,
    data: memoryview | bytes,
    idle_s: float,
) -> None:
    untaken_bytes, sending = len(data), response.write(data)
    while True:
        try:
            async with asyncio.timeout(idle_s):
                await sending
                await response.drain()
            return
        except TimeoutError:
            if (now_bytes := transport.get_write_buffer_size()) >= untaken_bytes:
                raise
            untaken_bytes, sending = now_bytes, response.drain()

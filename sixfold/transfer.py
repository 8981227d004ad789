"""A transfer in one direction, as the client watches it: its progress and the server's silence."""

import asyncio
from collections.abc import AsyncIterable, AsyncIterator, Callable
from types import TracebackType
from typing import Self

import aiohttp
from blake3 import blake3

from common.errors import BadRequest, IncompleteBody, Unavailable
from common.ids import ContentId

Progress = Callable[[int, int | None], None]  # bytes so far, bytes in all if that is known


async def sent_once(
    request: aiohttp.ClientRequest, handler: aiohttp.ClientHandlerType
) -> aiohttp.ClientResponse:
    """A middleware for what must not be asked twice: aiohttp sends an idempotent request again
    when its connection breaks, and a DELETE that was done would then be answered with 404."""
    try:
        return await handler(request)
    except aiohttp.ClientConnectorError:
        raise  # it never arrived
    except (aiohttp.ClientOSError, aiohttp.ServerDisconnectedError) as error:
        raise aiohttp.ClientConnectionError(str(error)) from error


class Silence:
    """`async with`: raises TimeoutError when the server lets nothing happen for `limit_s`.

    The caller's own source or sink may take as long as it likes: `pause` while waiting for it.
    """

    def __init__(self, limit_s: float) -> None:
        self.limit_s, self._timeout, self._over = limit_s, asyncio.timeout(limit_s), False

    @property
    def broken(self) -> bool:
        return self._timeout.expired()

    def pause(self) -> None:
        self._set(None)

    def restart(self) -> None:
        self._set(asyncio.get_running_loop().time() + self.limit_s)

    def _set(self, when: float | None) -> None:
        """An upload's body runs in a task of its own, which may end after the request."""
        if not self._over and not self.broken:
            self._timeout.reschedule(when)

    async def __aenter__(self) -> Self:
        await self._timeout.__aenter__()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._over = True
        await self._timeout.__aexit__(kind, error, trace)  # raises; it never swallows


class Upload:
    """The body of a PUT, counted and hashed as it leaves. Keeps what went wrong in `error`,
    because the HTTP library makes a lost connection of it."""

    def __init__(
        self,
        source: AsyncIterable[bytes],
        size_bytes: int | None,
        silence: Silence,
        progress: Progress | None,
    ) -> None:
        self.size_bytes, self.sent_bytes = size_bytes, 0
        self.error: Exception | None = None
        self.silence, self._source, self._progress = silence, source, progress
        self._hasher = blake3()

    @property
    def id(self) -> ContentId:
        return ContentId(self._hasher.digest())

    async def __aiter__(self) -> AsyncIterator[bytes]:
        try:
            if self.sent_bytes:  # the library repeats a PUT when a kept connection was stale
                raise Unavailable("the connection was lost, and a stream can be sent only once")
            self.silence.pause()
            async for chunk in self._source:
                self._count(chunk)
                self.silence.restart()
                yield chunk
                self.silence.pause()
            self.silence.restart()
            self._check_length()
        except Exception as error:
            self.error = error
            raise

    def _count(self, chunk: bytes) -> None:
        self._hasher.update(chunk)
        self.sent_bytes += len(chunk)
        if self.size_bytes is not None and self.sent_bytes > self.size_bytes:
            raise BadRequest(f"there are more bytes than the {self.size_bytes} that were declared")
        if self._progress is not None:
            self._progress(self.sent_bytes, self.size_bytes)

    def _check_length(self) -> None:
        if self.size_bytes not in (None, self.sent_bytes):
            raise IncompleteBody(
                f"there were {self.sent_bytes} bytes where {self.size_bytes} were declared: "
                "did the file change while it was read?"
            )

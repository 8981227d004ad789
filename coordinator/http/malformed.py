"""Malformed HTTP is refused as every other error is: aiohttp's parser would answer it as plain
text, before any middleware."""

from http import HTTPStatus

from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError

from coordinator.http.errors import error_response


class JsonErrorsRunner(web.AppRunner):
    """An AppRunner; only what its connections answer to malformed HTTP differs."""

    async def _make_server(self) -> web.Server:
        made = await super()._make_server()
        return _Server(
            made.request_handler,
            request_factory=made.request_factory,
            handler_cancellation=made.handler_cancellation,
            **made._kwargs,
        )


class _Server(web.Server):
    def __call__(self) -> web.RequestHandler:
        return _Connection(self, loop=self._loop, **self._kwargs)


class _Connection(web.RequestHandler):
    __slots__ = ("_is_malformed",)

    def data_received(self, data: bytes) -> None:
        """What follows malformed HTTP cannot be understood, and must not pile up: aiohttp would
        queue an error for each piece of it, and hold the piece by its traceback."""
        if getattr(self, "_is_malformed", False):
            return
        super().data_received(data)
        error = getattr(self._messages[-1][0], "exc", None) if self._messages else None
        if isinstance(error, HttpProcessingError):
            self._is_malformed = True
            error.__traceback__ = None

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        super().handle_error(request, status, exc, message)  # logs, or raises if it is too late
        reason = HTTPStatus(status).phrase
        code = reason.lower().replace(" ", "_")
        if isinstance(exc, HttpProcessingError):
            reason = f"malformed HTTP: {exc.message.splitlines()[0][:120].rstrip(':')}"
        response = error_response(request, status, code, reason, exc)
        response.force_close()
        return response

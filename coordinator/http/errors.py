"""The one place where an error becomes a status: a middleware around every handler."""

import logging
import secrets
from collections.abc import Awaitable, Callable

from aiohttp import web

from common.errors import SixfoldError, Unavailable

log = logging.getLogger(__name__)

REQUEST_ID = "Sixfold-Request-Id"
RETRY_AFTER_S = 2

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@web.middleware
async def errors_as_json(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Errors are JSON with `code`, `message` and `request_id`; the last is in the log too."""
    try:
        return await handler(request)
    except SixfoldError as error:
        return error_response(request, error.http_status, error.code, str(error), error)
    except web.HTTPException as error:
        if error.status < 400:
            raise
        code = error.reason.lower().replace(" ", "_")
        return error_response(request, error.status, code, error.reason, error)
    except Exception as error:
        log.exception("%s %s", request.method, request.path)
        return error_response(request, 500, "internal", "internal error, see the log", error)


def error_response(
    request: web.BaseRequest,
    status: int,
    code: str,
    message: str,
    error: BaseException | None,
) -> web.Response:
    """Closes the connection if the request's body was not read: its rest is not a request."""
    request_id = secrets.token_hex(8)
    if status >= 500:
        log.warning(
            "%s %s -> %d %s [%s]", request.method, request.path, status, message, request_id
        )
    body = {"code": code, "message": message, "request_id": request_id}
    response = web.json_response(body, status=status, headers={REQUEST_ID: request_id})
    if isinstance(error, Unavailable):
        response.headers["Retry-After"] = str(RETRY_AFTER_S)
    if isinstance(error, web.HTTPMethodNotAllowed):
        response.headers["Allow"] = ", ".join(sorted(error.allowed_methods))
    if request.can_read_body and not request.content.at_eof():
        response.force_close()
    return response

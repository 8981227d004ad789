"""Waiting for what a server does, although the server may be restarted meanwhile."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, TypeVar

from common.errors import Unavailable

if TYPE_CHECKING:
    from sixfold.console import Console

T = TypeVar("T")
PATIENCE_S = 60.0
RETRY_S = 1.0


async def patiently(console: "Console", ask: Callable[[], Awaitable[T]]) -> T:
    """The answer. While the server cannot be reached it is asked again, since what we wait for
    will go on when it is back. Raises Unavailable when it has been away for PATIENCE_S."""
    end_s, told = time.monotonic() + PATIENCE_S, False
    while True:
        try:
            return await ask()
        except Unavailable as error:
            if time.monotonic() > end_s:
                raise
            if not told:
                console.note(f"{error}; waiting for it to come back")
            told = True
        await asyncio.sleep(RETRY_S)

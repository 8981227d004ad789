"""Failed transfers let go of their memory at once."""

import traceback
from collections.abc import Iterator


def let_go(error: BaseException) -> None:
    """Clear the local variables of all that has ended by `error` and by what led to it.

    A traceback keeps them alive, and where a future that was waited for keeps the exception, that
    lasts until the garbage collector comes: with views of stripes among them, far too long.
    """
    for each in _chain(error, set()):
        traceback.clear_frames(each.__traceback__)


def _chain(error: BaseException | None, seen: set[int]) -> Iterator[BaseException]:
    if error is None or id(error) in seen:
        return
    seen.add(id(error))
    yield error
    yield from _chain(error.__cause__, seen)
    yield from _chain(error.__context__, seen)
    for part in error.exceptions if isinstance(error, BaseExceptionGroup) else ():
        yield from _chain(part, seen)

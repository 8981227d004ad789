"""What the command says: results on stdout, errors on stderr, as words or as lines of JSON."""

import json
import sys
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from common.errors import SixfoldError

T = TypeVar("T")

OS_ERROR_EXIT_CODE = 1


@dataclass(frozen=True, slots=True)
class Console:
    as_json: bool = False

    def result(self, fields: Mapping[str, object], *words: str) -> None:
        """One result: its fields as a line of JSON, or its lines of words."""
        for line in [json.dumps(dict(fields))] if self.as_json else words:
            print(line, flush=True)

    def error(self, error: SixfoldError | OSError, subject: str = "") -> int:
        """One line. The exit code to end with."""
        if isinstance(error, SixfoldError):
            code, exit_code, message = error.code, error.exit_code, str(error)
        else:
            code, exit_code, message = "os_error", OS_ERROR_EXIT_CODE, _os_message(error)
        self.complain({"code": code, "message": message}, subject)
        return exit_code

    def note(self, message: str, subject: str = "") -> None:
        """Something to know that is no error."""
        self.complain({"code": "note", "message": message}, subject)

    def complain(self, said: dict[str, str], subject: str = "") -> None:
        """One line on stderr, with what it is about unless the message names that itself."""
        message = said["message"]
        if self.as_json:
            line = json.dumps(said | ({"subject": subject} if subject else {}))
        else:
            line = f"sixfold: {message if subject in message else f'{subject}: {message}'}"
        print(line, file=sys.stderr, flush=True)

    async def each(self, items: Iterable[T], act: Callable[[T], Awaitable[object]]) -> int:
        """Do it for every item, going on after errors. The exit code of the first of them."""
        first_exit_code = 0
        for item in items:
            try:
                await act(item)
            except (SixfoldError, OSError) as error:
                exit_code = self.error(error, str(item))
                first_exit_code = first_exit_code or exit_code
        return first_exit_code


def aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Lines of columns, each as wide as its widest cell."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]


def _os_message(error: OSError) -> str:
    if error.strerror is None:
        return str(error)
    return f"{error.filename}: {error.strerror}" if error.filename else error.strerror

"""Options that several commands share. `--url` and `--json` may stand before or after the name
of the command."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sixfold.console import Console

if TYPE_CHECKING:
    from sixfold.client import Client

DEFAULT_URL = "http://127.0.0.1:8600"

Url = Annotated[
    str | None,
    typer.Option("--url", metavar="URL", help=f"The coordinator [default: {DEFAULT_URL}]"),
]
Json = Annotated[
    bool, typer.Option("--json", help="Print one JSON object per line instead of words")
]
Dir = Annotated[Path, typer.Option("--dir", metavar="DIR", help="Directory of the local cluster")]

DEFAULT_DIR = Path(".sixfold")


@dataclass(frozen=True, slots=True)
class Globals:
    """What was given before the name of the command."""

    url: str
    as_json: bool

    def console(self, as_json: bool) -> Console:
        return Console(as_json or self.as_json)


def globals_of(context: typer.Context) -> Globals:
    found = context.find_object(Globals)
    assert found is not None, "the callback of the command sets it"
    return found


def with_client(
    context: typer.Context, url: str | None, work: Callable[["Client"], Awaitable[int]]
) -> int:
    """Do it with a client of the coordinator that was named; the exit code."""
    import uvloop

    from sixfold.client import Client

    async def open_and_work() -> int:
        async with Client(url or globals_of(context).url) as client:
            return await work(client)

    return uvloop.run(open_and_work())

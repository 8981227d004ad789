"""Options that several commands share. `--url` and `--json` may stand before or after the name
of the command."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from sixfold.console import Console

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

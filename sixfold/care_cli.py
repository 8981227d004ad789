"""The commands of whoever looks after a store: how safe it is, what its jobs do."""

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Annotated, Any

import typer

from common.ids import ContentId
from sixfold.care_words import durability_lines, explain_lines, job_lines
from sixfold.options import Json, Url, globals_of, with_client

if TYPE_CHECKING:
    from sixfold.client import Client

care_app = typer.Typer()

Afr = Annotated[
    float, typer.Option("--afr", metavar="RATE", help="How many of all nodes fail in a year")
]
Id = Annotated[str, typer.Argument(metavar="ID", help="Id of a content, as b3sum prints")]


@care_app.command()
def durability(
    context: typer.Context, afr: Afr = 0.02, url: Url = None, as_json: Json = False
) -> int:
    """Tell what may fail now, and how likely the store is to lose something in a year."""
    return _show(context, url, as_json, lambda client: client.durability(afr), durability_lines)


@care_app.command()
def jobs(context: typer.Context, url: Url = None, as_json: Json = False) -> int:
    """List the background jobs: who does each, and what it says of itself."""
    return _show(context, url, as_json, lambda client: client.jobs(), job_lines)


@care_app.command()
def explain(context: typer.Context, id_: Id, url: Url = None, as_json: Json = False) -> int:
    """Show where every shard of a content is, its state, and what may still fail."""
    content = ContentId.parse(id_)
    return _show(context, url, as_json, lambda client: client.explain(content), explain_lines)


def _show(
    context: typer.Context,
    url: str | None,
    as_json: bool,
    ask: Callable[["Client"], Awaitable[dict[str, Any]]],
    worded: Callable[[dict[str, Any]], list[str]],
) -> int:
    """Ask, and print the answer as it came or in words."""
    console = globals_of(context).console(as_json)

    async def ask_and_print(client: "Client") -> int:
        said = await ask(client)
        console.result(said, *([] if console.as_json else worded(said)))
        return 0

    return with_client(context, url, ask_and_print)

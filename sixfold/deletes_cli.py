"""The commands that stop all deletion on nodes, and allow it again."""

from typing import TYPE_CHECKING, Annotated

import typer

from sixfold.options import Json, Url, globals_of, with_client

if TYPE_CHECKING:
    from sixfold.client import Client

deletes_app = typer.Typer()

Reason = Annotated[str, typer.Argument(metavar="REASON", help="Why: whoever looks is told")]


@deletes_app.command("stop-deletes")
def stop_deletes(
    context: typer.Context, reason: Reason, url: Url = None, as_json: Json = False
) -> int:
    """Delete nothing on nodes any more, whatever clients delete, until allow-deletes."""
    console = globals_of(context).console(as_json)

    async def stop(client: "Client") -> int:
        said = await client.stop_deletes(reason)
        console.result(said, f"deletes are stopped: {said['deletes_stopped']}")
        return 0

    return with_client(context, url, stop)


@deletes_app.command("allow-deletes")
def allow_deletes(context: typer.Context, url: Url = None, as_json: Json = False) -> int:
    """Delete again, after a look at why that was stopped (docs/architecture.md)."""
    console = globals_of(context).console(as_json)

    async def allow(client: "Client") -> int:
        said = await client.allow_deletes()
        was = f"; they were stopped: {said['was']}" if said["was"] else " and were before"
        console.result(said, f"deletes are allowed{was}")
        return 0

    return with_client(context, url, allow)

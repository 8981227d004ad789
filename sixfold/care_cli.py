"""The commands of whoever looks after a store: how safe it is, what its jobs do."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Annotated, Any

import typer

from common.ids import ContentId
from sixfold.care_errors import not_found, not_looked_at, not_whole
from sixfold.care_words import (
    LIVE,
    NOTHING_UNREADABLE,
    durability_lines,
    explain_lines,
    job_lines,
    scrub_lines,
    unreadable_lines,
    verify_lines,
)
from sixfold.options import Json, Url, globals_of, with_client
from sixfold.patience import patiently

if TYPE_CHECKING:
    from sixfold.client import Client

care_app = typer.Typer()

Afr = Annotated[
    float, typer.Option("--afr", metavar="RATE", help="How many of all nodes fail in a year")
]
LOOK_S = 0.5

Ids = Annotated[list[str], typer.Argument(metavar="ID", help="Ids of contents, as b3sum prints")]
Id = Annotated[str, typer.Argument(metavar="ID", help="Id of a content, as b3sum prints")]


@care_app.command()
def durability(
    context: typer.Context, afr: Afr = 0.02, url: Url = None, as_json: Json = False
) -> int:
    """Tell what may fail now, and how likely the store is to lose something in a year."""
    return _show(context, url, as_json, lambda client: client.durability(afr), durability_lines)


@care_app.command()
def unreadable(context: typer.Context, url: Url = None, as_json: Json = False) -> int:
    """List the contents that need a segment of which too few shards are left."""
    console = globals_of(context).console(as_json)

    async def list_them(client: "Client") -> int:
        nothing = True
        async for row in client.unreadable():
            console.result(row, *unreadable_lines(row, with_title=nothing))
            nothing = False
        if nothing and not console.as_json:
            console.result({}, NOTHING_UNREADABLE)
        return 0

    return with_client(context, url, list_them)


@care_app.command()
def jobs(context: typer.Context, url: Url = None, as_json: Json = False) -> int:
    """List the background jobs: who does each, and what it says of itself."""
    return _show(context, url, as_json, lambda client: client.jobs(), job_lines)


@care_app.command()
def explain(context: typer.Context, id_: Id, url: Url = None, as_json: Json = False) -> int:
    """Show where every shard of a content is, its state, and what may still fail."""
    content = ContentId.parse(id_)
    return _show(context, url, as_json, lambda client: client.explain(content), explain_lines)


@care_app.command()
def verify(context: typer.Context, ids: Ids, url: Url = None, as_json: Json = False) -> int:
    """Read and check every shard of contents. What is bad goes into the repair queue."""
    console = globals_of(context).console(as_json)

    async def verify_all(client: "Client") -> int:
        async def verify_one(id_: str) -> None:
            said = await client.verify(ContentId.parse(id_))
            console.result(said, *verify_lines(said))
            if said["state"] != LIVE:
                raise not_found(said)
            if not said["whole"]:
                raise not_whole(said)

        return await console.each(ids, verify_one)

    return with_client(context, url, verify_all)


@care_app.command()
def scrub(
    context: typer.Context,
    wait: Annotated[bool, typer.Option("--wait", help="Until the pass is through")] = False,
    status: Annotated[bool, typer.Option("--status", help="Only tell how far it is")] = False,
    url: Url = None,
    as_json: Json = False,
) -> int:
    """Read every shard now, the nodes each their own and the coordinator whole stripes, and queue
    what needs repair."""
    console = globals_of(context).console(as_json)

    async def scrub_now(client: "Client") -> int:
        begun = None if status else await client.start_scrub()
        said = await client.scrub_status()
        asked = begun or {"wanted": said["wanted"], "nodes": []}
        while wait and not _is_through(said, asked):
            await asyncio.sleep(LOOK_S)
            said = await patiently(console, client.scrub_status)
        console.result(said, *scrub_lines(said))
        if wait and (missed := not_looked_at(said, asked)):
            raise missed
        return 0

    return with_client(context, url, scrub_now)


def _is_through(said: dict[str, Any], asked: dict[str, Any]) -> bool:
    """Nothing runs, and what was asked for is done, except by nodes that do not answer."""
    stripes, before = said["stripes"], {n["number"]: n.get("passes") for n in asked["nodes"]}
    if stripes["served"] < asked["wanted"] or stripes["running"]:
        return False
    return not any(_is_behind(node, before.get(node["number"])) for node in said["nodes"])


def _is_behind(node: dict[str, Any], passes_before: int | None) -> bool:
    if "error" in node:
        return False
    return node["running"] or (passes_before is not None and node["passes"] <= passes_before)


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

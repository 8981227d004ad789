"""The commands for storage nodes: list them, and take them out of the cluster."""

import asyncio
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from common.errors import Conflict
from common.units import format_bytes
from sixfold.console import Console, aligned
from sixfold.options import Json, Url, globals_of, with_client
from sixfold.patience import patiently

if TYPE_CHECKING:
    from sixfold.answers import NodeStat
    from sixfold.client import Client

nodes_app = typer.Typer()

WATCH_S = 2.0
Name = Annotated[str, typer.Argument(metavar="NODE", help="Its name, or its id")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Only tell what it would mean")]
Force = Annotated[bool, typer.Option("--force", help="Even if shards must share nodes then")]
GiveUp = Annotated[bool, typer.Option("--force", help="Even if it has shards of no segment")]
Wait = Annotated[bool, typer.Option("--wait", help="Until nothing is left on the node")]


@nodes_app.command()
def nodes(
    context: typer.Context,
    all_: Annotated[bool, typer.Option("--all", help="Removed ones too")] = False,
    url: Url = None,
    as_json: Json = False,
) -> int:
    """List the storage nodes: zone, state, how full they are."""
    console = globals_of(context).console(as_json)

    async def list_nodes(client: "Client") -> int:
        cluster = await client.nodes()
        if console.as_json:
            for node in cluster.nodes:
                console.result(asdict(node))
        else:
            shown = [node for node in cluster.nodes if all_ or node.state != "removed"]
            in_order = sorted(shown, key=lambda node: (len(node.name), node.name))
            rows = [_node_row(node) for node in in_order]
            cluster_line = f"cluster {cluster.cluster_id}, codec {cluster.codec}"
            stopped = cluster.deletes_stopped
            alarm = [f"deletes are stopped: {stopped}", WHAT_TO_DO] if stopped else []
            alarm += [f"{node.name}: {node.failure}" for node in in_order if node.failure]
            console.result({}, cluster_line, *alarm, *aligned([NODE_COLUMNS, *rows]))
        return 0

    return with_client(context, url, list_nodes)


WHAT_TO_DO = (
    "  once it is clear why: sixfold admin allow-deletes "
    "(if a backup was restored, sixfold admin rebuild-metadata before)"
)
NODE_COLUMNS = ("NODE", "ZONE", "STATE", "USED", "CAPACITY", "FULL", "SHARDS", "SEEN", "URL")


def _node_row(node: "NodeStat") -> tuple[str, ...]:
    used, capacity = node.used_bytes, node.capacity_bytes
    return (
        node.name,
        node.zone,
        _state(node),
        "-" if used is None else format_bytes(used),
        "-" if capacity is None else format_bytes(capacity),
        "-" if used is None or not capacity else f"{used / capacity:.1%}",
        "-" if node.shards is None else str(node.shards),
        "never" if node.last_seen_s is None else f"{node.last_seen_s:.0f} s ago",
        node.http_url or "-",
    )


def _state(node: "NodeStat") -> str:
    """With what the operator wants, where the state alone does not show it."""
    hidden = node.wish == "draining" and node.state not in ("draining", "drained")
    return f"{node.state}, draining" if hidden else node.state


@nodes_app.command()
def drain(
    context: typer.Context,
    node: Name,
    dry_run: DryRun = False,
    force: Force = False,
    wait: Wait = False,
    url: Url = None,
    as_json: Json = False,
) -> int:
    """Move everything away from a node, so that it can be removed."""
    console = globals_of(context).console(as_json)

    if wait and dry_run:
        raise typer.BadParameter("--dry-run begins nothing that --wait could wait for")

    async def drain_it(client: "Client") -> int:
        plan = await client.drain(node, force, dry_run)
        console.result(plan, *_plan_lines(plan))
        if wait:
            await _watch(client, console, plan["node_id"])
        return 0

    return with_client(context, url, drain_it)


async def _watch(client: "Client", console: Console, node_id: str) -> None:
    """Until nothing needs the node any more. Raises Conflict when it is taken back, or removed."""
    said = ""
    while True:
        plan = await patiently(console, lambda: client.drain(node_id, force=False, dry_run=True))
        if end := _end(plan):
            return console.result(plan, end)
        if (left := _left(plan)) != said:
            console.note(left, plan["node"])
        said = left
        await asyncio.sleep(WATCH_S)


def _end(plan: dict[str, Any]) -> str:
    """In words, if there is nothing to wait for: a lost node never says that it is empty."""
    name, state, segments = plan["node"], plan["state"], plan["segments"]
    if plan["wish"] != "draining":
        raise Conflict(f"{name} was taken back into service, with shards of {segments} segments")
    if segments or state not in ("drained", "lost"):
        return ""
    if state == "lost":
        return f"{name} is lost, and no segment needs it any more: it can be removed"
    return f"{name} is drained"


def _left(plan: dict[str, Any]) -> str:
    """What is waited for."""
    parts = [f"{plan['segments']} segments left, {format_bytes(plan['bytes'])}"]
    if plan["state"] not in ("draining", "drained"):
        parts.append(f"the node is {plan['state']}")
    elif not plan["segments"] and plan["shards"]:
        parts.append(f"{plan['shards']} shards are to be deleted on it")
        if plan["deletes_stopped"]:
            parts.append(f"but deletes are stopped: {plan['deletes_stopped']}")
    return "; ".join(parts)


def _plan_lines(plan: dict[str, Any]) -> list[str]:
    return aligned(
        [
            ("node", f"{plan['node']} ({plan['state']})"),
            ("to move", f"{plan['segments']} segments, {format_bytes(plan['bytes'])}"),
            ("takes about", f"{plan['left_s']:.0f} s"),
            ("other nodes", f"{plan['others']}, {format_bytes(plan['free_bytes'])} free"),
            ("survives then", _survives(plan)),
            *([("refused", plan["objection"])] if plan["objection"] else []),
        ]
    )


def _survives(plan: dict[str, Any]) -> str:
    return f"the loss of any {plan['survives']} nodes, of any {plan['survives_zones']} zones"


@nodes_app.command()
def undrain(context: typer.Context, node: Name, url: Url = None, as_json: Json = False) -> int:
    """Take a node back into service."""
    console = globals_of(context).console(as_json)

    async def undrain_it(client: "Client") -> int:
        said = await client.undrain(node)
        console.result(said, f"{said['node']} is {said['state']}")
        return 0

    return with_client(context, url, undrain_it)


@nodes_app.command()
def remove(
    context: typer.Context,
    node: Name,
    force: GiveUp = False,
    url: Url = None,
    as_json: Json = False,
) -> int:
    """Forget a node for good: it must be drained, or lost and made up for by repair."""
    console = globals_of(context).console(as_json)

    async def remove_it(client: "Client") -> int:
        said = await client.remove(node, force)
        console.result(said, f"{said['node']} is {said['state']}")
        return 0

    return with_client(context, url, remove_it)

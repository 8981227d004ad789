"""The commands for storage nodes: list them, and take them out of the cluster."""

import asyncio
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from common.errors import Conflict, StoreReadOnly
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
    """Until the node is empty, or lost and not needed. Raises Conflict when it is taken back, or
    removed, and StoreReadOnly if it is not needed but will never be empty."""
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
    if segments:
        return ""
    if state == "draining" and plan["shards"] and plan["failure"]:
        raise StoreReadOnly(
            f"no segment needs {name} any more, but it cannot delete its {plan['shards']} shards: "
            f"{plan['failure']}; sixfold remove {name} --force"
        )
    if state == "lost":
        return f"{name} is lost, and no segment needs it any more: it can be removed"
    return f"{name} is drained" if state == "drained" else ""


def _left(plan: dict[str, Any]) -> str:
    """What is waited for."""
    parts = [f"{plan['segments']} segments left, {format_bytes(plan['bytes'])}"]
    if plan["unmovable"]:
        parts.append(f"{plan['unmovable']} of them cannot be moved now")
    if plan["state"] not in ("draining", "drained"):
        parts.append(f"the node is {plan['state']}")
    elif not plan["segments"] and plan["shards"]:
        parts.append(f"{plan['shards']} shards are to be deleted on it")
        if plan["deletes_stopped"]:
            parts.append(f"but deletes are stopped: {plan['deletes_stopped']}")
    return "; ".join(parts)


def _plan_lines(plan: dict[str, Any]) -> list[str]:
    warning, objection = plan["warning"], plan["objection"]
    return aligned(
        [
            ("node", f"{plan['node']} ({plan['state']})"),
            ("to move", _to_move(plan)),
            ("takes about", _takes(plan)),
            ("other nodes", f"{plan['others']}, {format_bytes(plan['free_bytes'])} free"),
            ("survives now", _survives(plan, plan["survives_now"], plan["survives_zones_now"])),
            ("survives then", _survives(plan, plan["survives"], plan["survives_zones"])),
            *([("mind that", warning)] if warning and not objection else []),
            *([("refused", objection)] if objection else []),
        ]
    )


def _to_move(plan: dict[str, Any]) -> str:
    all_ = f"{plan['segments']} segments, {format_bytes(plan['bytes'])}"
    if not plan["unmovable"]:
        return all_
    return f"{all_}; {plan['unmovable']} of them not now: too few of their shards can be read"


def _takes(plan: dict[str, Any]) -> str:
    if plan["unmovable"] and plan["unmovable"] == plan["segments"]:
        return "nobody knows: nothing can be moved now"
    others = " for the others" if plan["unmovable"] else ""
    return f"{plan['left_s']:.0f} s{others}, at {plan['rate_is']}"


def _survives(plan: dict[str, Any], nodes: int, zones: int) -> str:
    if nodes < 0:
        unreadable = plan["unreadable"]
        return f"nothing: {unreadable} segments cannot be read now" if unreadable else "nothing"
    return f"the loss of any {nodes} nodes, of any {zones} zones"


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
        what = "its process ends, and its data directory may be deleted"
        console.result(said, f"{said['node']} is {said['state']}: {what}")
        return 0

    return with_client(context, url, remove_it)

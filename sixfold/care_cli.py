"""The commands of whoever looks after a store: how safe it is, what its jobs do."""

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sixfold.console import aligned
from sixfold.options import Json, Url, globals_of, with_client

if TYPE_CHECKING:
    from sixfold.client import Client

care_app = typer.Typer()

Afr = Annotated[
    float, typer.Option("--afr", metavar="RATE", help="How many of all nodes fail in a year")
]


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


def durability_lines(said: dict[str, Any]) -> list[str]:
    """The report of `/-/admin/durability` in words."""
    now, short, assumed = said["may_fail_now"], said["short"], said["assumed"]
    loss = said["loss_per_year"]
    rows = [
        ("segments", str(said["segments"])),
        ("may fail now", f"{_may(now['nodes'], 'node')}, {_may(now['zones'], 'zone')}"),
        ("short of shards", f"{short['on_absent_nodes']} segments, as nodes are away"),
        *((f"  may lose {kind['may_fail']}" if kind["may_fail"] >= 0 else "  unreadable",
           f"{kind['segments']} segments on {kind['nodes']} nodes, lost before repair with "
           f"probability {kind['loss_before_repair']:.2g}") for kind in short["kinds"]),
        ("in repair queue", _queue(short)),
        ("loss of an object", f"{_chance(loss['object'])}, for each segment of it"),
        ("loss of any object", _chance(loss["any_object"])),
        ("metadata", f"{said['metadata_loss_per_year']['probability']:.2g} a year"),
        ("assumed", f"{assumed['afr']:.2%} of nodes fail in a year, "
         f"{assumed['rot_per_shard_year']:.2g} of shards rot"),
        ("repair", f"{assumed['repair_h']:.2f} hours {assumed['repair_h_is']}"),
        ("scrub", f"{assumed['scrub_h']:.1f} hours: {assumed['scrub_h_is']}"),
    ]  # fmt: skip
    words = (said["metadata_loss_per_year"]["words"], said["correlated"], said["model"])
    return [*aligned(rows), "", *words]


def _may(count: int | None, what: str) -> str:
    if count is None:
        return f"no {what} matters yet"
    if count < 0:
        return f"too many {what}s have failed"
    return f"{count} {what}{'' if count == 1 else 's'}"


def _queue(short: dict[str, Any]) -> str:
    if not short["queued"]:
        return "nothing"
    return f"{short['queued']} segments, the worst with {short['fewest_survivors']} shards"


def _chance(loss: dict[str, float]) -> str:
    """Rebuilt one after another is the worse case, and what a single repair job does."""
    return f"{loss['serial']:.2g} a year ({loss['parallel']:.2g} if rebuilt all at once)"


def job_lines(said: dict[str, Any]) -> list[str]:
    """The list of `/-/admin/jobs` in words."""
    rows = [("JOB", "DONE BY", "EPOCH", "SAID", "STATE")]
    for job in said["jobs"]:
        age_s = job["age_s"]
        rows.append(
            (
                job["name"],
                f"session {job['session']}" if job["held"] else "nobody",
                str(job["epoch"] or "-"),
                "-" if age_s is None else f"{age_s} s ago",
                ", ".join(f"{key} {value}" for key, value in job["state"].items()) or "-",
            )
        )
    return aligned(rows)

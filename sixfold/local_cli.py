"""The commands for a cluster on this machine: `sixfold up` and `sixfold local …`."""

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from sixfold import local_control
from sixfold.console import Console, aligned
from sixfold.local import LocalDirectory, ServerProcess
from sixfold.local_control import KILL, PAUSE, RESUME, Action
from sixfold.options import DEFAULT_DIR, Dir, Json, globals_of
from sixfold.processes import state_of

LEAST_NODES = 3  # with fewer, losing one of them loses data, and no upload is accepted
MOST_NODES = 100  # each is a process
MOST_WORKERS = 64
MOST_SECONDS = 10_000_000


Names = Annotated[list[str], typer.Argument(metavar="NODE", help="node-3, or 3, or coordinator")]


def _number(least: int, most: int) -> Callable[[str], int]:
    def parse(text: str) -> int:
        if not str(text).isdecimal() or not least <= int(text) <= most:
            raise typer.BadParameter(f"not a number from {least} to {most}: {str(text)!r}")
        return int(text)

    return parse


local_app = typer.Typer(name="local", help="Try failures on the cluster of sixfold up.")


def up(
    context: typer.Context,
    nodes: Annotated[
        int,
        typer.Option(
            parser=_number(LEAST_NODES, MOST_NODES), metavar="N", help="How many storage nodes"
        ),
    ] = 9,
    dir: Dir = DEFAULT_DIR,
    port: Annotated[
        int, typer.Option(parser=_number(0, 65_535), metavar="PORT", help="0 takes a free one")
    ] = 8600,
    workers: Annotated[
        int,
        typer.Option(
            parser=_number(1, MOST_WORKERS),
            metavar="N",
            help="How many coordinator processes share the port",
        ),
    ] = 1,
    lost_after: Annotated[
        int,
        typer.Option(
            parser=_number(1, MOST_SECONDS),
            metavar="SECONDS",
            help="Silence after which a node is lost, and its shards are rebuilt on others",
        ),
    ] = 900,
    grace: Annotated[
        int,
        typer.Option(
            parser=_number(0, MOST_SECONDS),
            metavar="SECONDS",
            help="How long deleted content keeps its space",
        ),
    ] = 3600,
    adopt_cluster: Annotated[
        str,
        typer.Option(
            metavar="CLUSTER",
            help="Begin a new metadata database for the nodes of this cluster, whose own was lost",
        ),
    ] = "",
    as_json: Json = False,
) -> None:
    """Run a cluster on this machine until Ctrl-C. Its data stays for the next time."""
    from sixfold.up import run_up  # imports the client

    options = [
        "--workers",
        str(workers),
        "--lost-after-s",
        str(lost_after),
        "--grace-s",
        str(grace),
    ]
    if adopt_cluster:
        options += ["--adopt-cluster", adopt_cluster]
    run_up(dir, nodes, port, options, globals_of(context).console(as_json))


@local_app.command()
def kill(ctx: typer.Context, names: Names, dir: Dir = DEFAULT_DIR, as_json: Json = False) -> int:
    """Kill processes as a crash would (SIGKILL)."""
    return _act(ctx, dir, as_json, names, KILL)


@local_app.command()
def pause(ctx: typer.Context, names: Names, dir: Dir = DEFAULT_DIR, as_json: Json = False) -> int:
    """Make processes fall silent without ending them (SIGSTOP)."""
    return _act(ctx, dir, as_json, names, PAUSE)


@local_app.command()
def resume(ctx: typer.Context, names: Names, dir: Dir = DEFAULT_DIR, as_json: Json = False) -> int:
    """Let paused processes go on (SIGCONT)."""
    return _act(ctx, dir, as_json, names, RESUME)


@local_app.command()
def start(ctx: typer.Context, names: Names, dir: Dir = DEFAULT_DIR, as_json: Json = False) -> int:
    """Start processes again that were killed; sixfold up ends them with the others."""
    from sixfold.local_start import start_again  # imports the client

    console = globals_of(ctx).console(as_json)
    tell = partial(_tell, console)
    return asyncio.run(start_again(LocalDirectory(dir), names, console, tell))


@local_app.command()
def stop(ctx: typer.Context, dir: Dir = DEFAULT_DIR, as_json: Json = False) -> None:
    """End the whole cluster, also what a sixfold up that was killed has left behind."""
    ended = asyncio.run(local_control.stop(LocalDirectory(dir)))
    words = f"ended {', '.join(ended)}" if ended else "nothing was running"
    globals_of(ctx).console(as_json).result({"ended": ended}, words)


@local_app.command()
def status(ctx: typer.Context, dir: Dir = DEFAULT_DIR, as_json: Json = False) -> None:
    """List the processes: running, paused or gone."""
    console = globals_of(ctx).console(as_json)
    found = [_described(process) for process in LocalDirectory(dir).read().processes]
    if console.as_json:
        for process in found:
            console.result(process)
    else:
        columns = ("name", "state", "pid", "url", "data")
        rows = [[str(process[column]) for column in columns] for process in found]
        console.result({}, *aligned([[column.upper() for column in columns], *rows]))


def _act(ctx: typer.Context, dir: Path, as_json: bool, names: list[str], action: Action) -> int:
    directory = LocalDirectory(dir)
    return _each(ctx, as_json, names, lambda name: local_control.act(directory, name, action))


def _each(
    ctx: typer.Context,
    as_json: bool,
    names: list[str],
    change: Callable[[str], Awaitable[ServerProcess]],
) -> int:
    """Change one process after the other; a line for each."""
    console = globals_of(ctx).console(as_json)

    async def change_and_tell(name: str) -> None:
        _tell(console, await change(name))

    return asyncio.run(console.each(names, change_and_tell))


def _tell(console: Console, process: ServerProcess) -> None:
    said = _described(process)
    console.result(said, f"{process.name} (pid {process.pid}): {said['state']}")


def _described(process: ServerProcess) -> dict[str, object]:
    return {
        "name": process.name,
        "role": process.role,
        "state": state_of(process),
        "pid": process.pid,
        "url": process.url,
        "data": process.data,
    }

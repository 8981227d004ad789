"""The `sixfold` command: reads the arguments, runs the client, words results and errors.

Heavy imports stand inside the functions that need them, so that `sixfold --help` is quick.
"""

import signal
import sys
from collections.abc import Sequence
from dataclasses import asdict
from io import TextIOWrapper
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from common.errors import SixfoldError
from common.ids import ContentId
from common.units import format_bytes
from sixfold import __version__
from sixfold.care_cli import care_app
from sixfold.console import Console, aligned
from sixfold.deletes_cli import deletes_app
from sixfold.local_cli import local_app, up
from sixfold.nodes_cli import nodes_app
from sixfold.options import DEFAULT_URL, Globals, Json, Url, globals_of, with_client
from sixfold.servers import exec_server

if TYPE_CHECKING:
    from sixfold.answers import ContentStat
    from sixfold.client import Client

INTERRUPTED = 130  # 128 + SIGINT, as shells have it
STDIO = "-"

app = typer.Typer(add_completion=False, rich_markup_mode=None)
app.add_typer(local_app)
app.add_typer(nodes_app)
app.add_typer(care_app)
app.command()(up)
admin_app = typer.Typer(name="admin", help="Rare operations on a whole cluster.")
admin_app.add_typer(deletes_app)
app.add_typer(admin_app)

Ids = Annotated[list[str], typer.Argument(metavar="ID", help="Ids of contents, as b3sum prints")]
PASS_ALL: dict[str, Any] = {
    "add_help_option": False,
    "context_settings": {"ignore_unknown_options": True, "allow_extra_args": True},
}


def run(arguments: Sequence[str]) -> int:
    """The command with these arguments. The exit code; nothing that was foreseen is raised."""
    if isinstance(sys.stdout, TextIOWrapper):
        sys.stdout.reconfigure(errors="surrogateescape")  # to print any file name
    signal.signal(signal.SIGTERM, as_interrupt)
    console = Console("--json" in arguments)
    try:
        exit_code = app(list(arguments) or ["--help"], "sixfold", standalone_mode=False)
    except typer.TyperException as error:
        console.complain({"code": "usage", "message": error.format_message()})
        return 2
    except (SixfoldError, OSError) as error:
        return console.error(error)
    except KeyboardInterrupt:
        return INTERRUPTED
    return int(exit_code or 0)


def as_interrupt(number: int, frame: object) -> None:
    """Clean up likewise: the event loop has a handler of its own for SIGINT, which cancels what
    runs, where an exception in the midst of anything could be taken for an error of that. Shells
    let what runs behind ignore SIGINT; SIGTERM is heard there too."""
    handler = signal.getsignal(signal.SIGINT)
    (handler if callable(handler) else signal.default_int_handler)(signal.SIGINT, None)


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"sixfold {__version__}")
        raise typer.Exit


@app.callback()
def root(
    context: typer.Context,
    url: Annotated[
        str, typer.Option(envvar="SIXFOLD_URL", metavar="URL", help="The coordinator")
    ] = DEFAULT_URL,
    as_json: Json = False,
    version: Annotated[
        bool,
        typer.Option("--version", is_eager=True, callback=_print_version, help="Print the version"),
    ] = False,
) -> None:
    """sixfold, a content-addressed object store: any three of nine nodes may be lost."""
    context.obj = Globals(url, as_json)


@app.command()
def put(
    context: typer.Context,
    files: Annotated[list[str], typer.Argument(metavar="FILE", help="Files; - is stdin")],
    url: Url = None,
    as_json: Json = False,
) -> int:
    """Store files. Prints the id of each, as b3sum does."""
    console = globals_of(context).console(as_json)

    async def put_all(client: "Client") -> int:
        return await console.each(files, lambda name: _put(client, console, name))

    return with_client(context, url, put_all)


async def _put(client: "Client", console: Console, name: str) -> None:
    from sixfold.files import descriptor_source
    from sixfold.progress import progress_bar

    with progress_bar(name) as progress:
        if name == STDIO:
            async with descriptor_source(sys.stdin.fileno()) as source:
                stored = await client.put(source, None, progress)
        else:
            stored = await client.put_file(Path(name), progress)
    console.result(asdict(stored) | {"id": str(stored.id), "name": name}, f"{stored.id}  {name}")
    if not stored.is_complete:
        console.note(f"stored, but not every shard is durable yet: {stored.durability}", name)


@app.command()
def get(
    context: typer.Context,
    id_: Annotated[str, typer.Argument(metavar="ID", help="Id of a content, as b3sum prints")],
    output: Annotated[
        str, typer.Option("--output", "-o", metavar="FILE", help="Where to write; - is stdout")
    ],
    url: Url = None,
    as_json: Json = False,
) -> int:
    """Fetch a content and verify it. A file appears whole and right, or not at all."""
    id_of_content = ContentId.parse(id_)
    console = globals_of(context).console(as_json)

    async def get_it(client: "Client") -> int:
        size_bytes = await _get(client, id_of_content, output)
        if console.as_json and output != STDIO:
            console.result({"id": id_, "size_bytes": size_bytes, "path": output})
        return 0

    return with_client(context, url, get_it)


async def _get(client: "Client", id_: ContentId, output: str) -> int:
    from sixfold.files import descriptor_sink
    from sixfold.progress import progress_bar

    with progress_bar(output) as progress:
        if output != STDIO:
            return await client.get_file(id_, Path(output), progress)
        async with descriptor_sink(sys.stdout.fileno()) as sink:
            return await client.get(id_, sink, progress)


@app.command()
def stat(context: typer.Context, ids: Ids, url: Url = None, as_json: Json = False) -> int:
    """Show size, age and durability of contents, without fetching them."""
    console = globals_of(context).console(as_json)

    async def stat_all(client: "Client") -> int:
        async def stat_one(id_: str) -> None:
            found = await client.stat(ContentId.parse(id_))
            console.result(asdict(found) | {"id": id_}, *_stat_lines(found))

        return await console.each(ids, stat_one)

    return with_client(context, url, stat_all)


def _stat_lines(found: "ContentStat") -> list[str]:
    return aligned(
        [
            ("id", str(found.id)),
            ("size", f"{found.size_bytes} bytes ({format_bytes(found.size_bytes)})"),
            ("segments", str(found.segments)),
            ("created", found.created),
            ("durability", found.durability),
        ]
    )


@app.command()
def rm(context: typer.Context, ids: Ids, url: Url = None, as_json: Json = False) -> int:
    """Delete contents."""
    console = globals_of(context).console(as_json)

    async def delete_all(client: "Client") -> int:
        async def delete_one(id_: str) -> None:
            await client.delete(ContentId.parse(id_))
            console.result({"id": id_, "deleted": True}, f"deleted {id_}")

        return await console.each(ids, delete_one)

    return with_client(context, url, delete_all)


@app.command(**PASS_ALL)
def coordinator(context: typer.Context) -> None:
    """Run a coordinator; --help tells its options."""
    exec_server("coordinator", context.args)


@app.command(**PASS_ALL)
def shardd(context: typer.Context) -> None:
    """Run a storage node; --help tells its options."""
    exec_server("shardd", context.args)


@admin_app.command("rebuild-metadata")
def rebuild_metadata(context: typer.Context, url: Url = None, as_json: Json = False) -> int:
    """Add to the metadata what the nodes hold and it does not know (docs/architecture.md)."""
    console = globals_of(context).console(as_json)

    async def rebuild(client: "Client") -> int:
        found = await client.rebuild_metadata()
        rows = [(name.replace("_", " "), str(count)) for name, count in found.items()]
        console.result(found, *aligned(rows))
        return 0

    return with_client(context, url, rebuild)

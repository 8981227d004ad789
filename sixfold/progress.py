"""A progress bar on stderr, if that is a terminal: size, rate, remaining time."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from sixfold.transfer import Progress


@contextmanager
def progress_bar(name: str) -> Iterator[Progress | None]:
    """What to tell the progress to; None where nobody would see it."""
    if not sys.stderr.isatty():
        yield None
        return
    from rich import progress  # slow to import, and mostly not needed
    from rich.console import Console

    columns = (
        progress.TextColumn("{task.description}", markup=False),
        progress.BarColumn(),
        progress.DownloadColumn(binary_units=True),
        progress.TransferSpeedColumn(),
        progress.TimeRemainingColumn(),
    )
    with progress.Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task(name, total=None)

        def tell(done_bytes: int, size_bytes: int | None) -> None:
            bar.update(task, completed=done_bytes, total=size_bytes)

        yield tell

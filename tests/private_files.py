"""Whether files are for their owner alone."""

import os
from pathlib import Path


def usual_umask() -> None:
    """For a process to be started with: by itself it would make files for all to read."""
    os.umask(0o022)


def open_to_others(directory: Path) -> list[str]:
    """What of the directory, itself included, the group or anyone else may read or change."""
    every = [directory, *directory.rglob("*")]
    return [f"{path}: {path.stat().st_mode & 0o777:o}" for path in every if _is_open(path)]


def _is_open(path: Path) -> bool:
    return bool(path.stat().st_mode & 0o077)

"""Small filesystems to put in the way, and other commands that need root."""

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from common.units import MIB
from tests.torture.outcome import CannotRun


@contextmanager
def mounted_over(directory: Path, size_bytes: int = 16 * MIB) -> Iterator[None]:
    """An empty filesystem of that size over what is there. Raises CannotRun."""
    call("mount", "-t", "tmpfs", "-o", f"size={size_bytes}", "tmpfs", str(directory))
    try:
        yield
    finally:
        call("umount", "--lazy", str(directory))


def call(*command: str) -> None:
    """Raises CannotRun if it does not succeed."""
    try:
        subprocess.run(command, check=True, capture_output=True, text=True)
    except OSError as error:
        raise CannotRun(f"{command[0]}: {error.strerror}") from None
    except subprocess.CalledProcessError as error:
        raise CannotRun(f"{' '.join(command)}: {error.stderr.strip()}; it needs root") from None

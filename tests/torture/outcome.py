"""How a test of a promise came out."""

import logging
import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

SHOWN = 20  # violations; there may be thousands of one kind


class CannotRun(Exception):
    """This machine does not allow the test. Says why."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """`figure` is what was counted, in words: `10,000 acknowledged writes over 200 kills, 0 lost`.
    The promise was kept if there are no `violations`. `left_out` is what this machine does not
    allow, if that is only a part, and why."""

    figure: str
    violations: Sequence[str] = field(default=())
    left_out: str = ""

    @property
    def kept(self) -> bool:
        return not self.violations

    def check(self) -> None:
        """Raises AssertionError if the promise was broken, for the quick forms."""
        assert self.kept, f"{self.figure}\n{self.shown()}"

    def shown(self) -> str:
        """The first violations, a line for each."""
        lines = [f"  {violation}" for violation in self.violations[:SHOWN]]
        if len(self.violations) > SHOWN:
            lines.append(f"  and {len(self.violations) - SHOWN:,} more")
        return "\n".join(lines)


def scaled(promised: int, scale: float, least: int = 1) -> int:
    """How many at this scale."""
    return max(least, round(promised * scale))


@contextmanager
def quiet() -> Iterator[None]:
    """Without what the store logs of faults when they happen in this process: that is a lot."""
    logging.disable()
    try:
        yield
    finally:
        logging.disable(logging.NOTSET)


@contextmanager
def scratch(name: str, in_memory: bool = False) -> Iterator[Path]:
    """A directory to work in, removed when the block ends. When it fails, the directory stays and
    is printed. `in_memory`: where the system has such, for what syncs much and need not."""
    memory = in_memory and os.access("/dev/shm", os.W_OK)
    folder = "/dev/shm" if memory else None
    directory = Path(tempfile.mkdtemp(prefix=f"sixfold-torture-{name}-", dir=folder))
    try:
        yield directory
    except BaseException:
        print(f"left for a look: {directory}", flush=True)
        raise
    shutil.rmtree(directory)

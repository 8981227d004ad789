"""A disk that remembers what was asked of it, in order."""

from collections.abc import Callable, Collection
from pathlib import Path
from typing import TypeVar

from shardd.disk import Disk
from tests.disks.layered import Call, LayeredDisk

T = TypeVar("T")

# What changes something, or makes a change durable.
CHANGES = frozenset(
    ("pwritev", "fsync", "fdatasync", "fsync_dir", "truncate", "mkdir", "rename", "unlink")
)


class RecordingDisk(LayeredDisk):
    """`calls` are those that succeeded, and the marks of the test between them."""

    def __init__(self, inner: Disk | None = None) -> None:
        super().__init__(inner)
        self.calls: list[Call] = []

    def _around(self, call: Call, work: Callable[[], T]) -> T:
        result = work()
        self.calls.append(call)
        return result

    def mark(self, name: str) -> None:
        """Something that is not a call of the disk happened here: an answer, say."""
        self.calls.append(Call(name, Path()))

    def changes(self, *marks: str) -> list[str]:
        """What has changed the disk, and these marks: `pwritev 00000001.vol`."""
        return [
            f"{call.name} {call.path.name}".strip()
            for call in self.calls
            if call.name in CHANGES or call.name in marks
        ]

    def count(self, names: Collection[str]) -> int:
        """How many calls of these methods."""
        return sum(call.name in names for call in self.calls)

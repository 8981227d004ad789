"""A model of a file system: what its files hold, and what a power loss may leave of them.

The model is as bad as POSIX allows. What was written to a file and not synced may be there or not,
each sector or page by itself; the file may have grown to its new size without its new bytes. Names
that were created, renamed or removed are there or not until their directory is synced, whatever was
done to the files. (Pillai et al., "All File Systems Are Not Created Equal", OSDI 2014.)
"""

import random
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

T = TypeVar("T")

ROOT = "."


@dataclass(frozen=True, slots=True)
class Image:
    """What a disk holds: files by path, and folders, all relative to the root."""

    files: dict[str, bytes] = field(default_factory=dict)
    folders: frozenset[str] = frozenset((ROOT,))


@dataclass(frozen=True, slots=True)
class Write:
    file: int
    offset: int
    data: bytes


@dataclass(frozen=True, slots=True)
class Truncate:
    file: int
    size_bytes: int


@dataclass(frozen=True, slots=True)
class SyncFile:
    file: int


@dataclass(frozen=True, slots=True)
class Link:
    """`path` is from now on the name of this file; None makes a folder."""

    path: str
    file: int | None


@dataclass(frozen=True, slots=True)
class Unlink:
    path: str


@dataclass(frozen=True, slots=True)
class Rename:
    source: str
    path: str
    file: int


@dataclass(frozen=True, slots=True)
class SyncFolder:
    path: str


Naming = Link | Unlink | Rename
Change = Write | Truncate
Step = Change | Naming | SyncFile | SyncFolder


class FileSystem:
    """Files have numbers, so that one that was renamed or removed is still known."""

    def __init__(self, image: Image) -> None:
        self.contents = {at: bytearray(data) for at, data in enumerate(image.files.values())}
        self.entries = {path: number for number, path in enumerate(image.files)}
        self.folders = set(image.folders)

    def apply(self, step: Step) -> None:
        """Do the step. Syncs do nothing here."""
        match step:
            case Write(file, offset, data):
                content = self.contents[file]
                content.extend(bytes(max(0, offset + len(data) - len(content))))
                content[offset : offset + len(data)] = data
            case Truncate(file, size_bytes):
                content = self.contents[file]
                del content[size_bytes:]
                content.extend(bytes(size_bytes - len(content)))
            case Link(path, None):
                self.folders.add(path)
            case Link(path, int(file)):
                self.contents.setdefault(file, bytearray())
                self.entries[path] = file
            case Unlink(path):
                self.entries.pop(path, None)
            case Rename(source, path, file):
                self.entries.pop(source, None)
                self.entries[path] = file

    def image(self) -> Image:
        """Without what is in folders that are not there."""
        kept = {ROOT}
        for folder in sorted(self.folders):  # what is above comes first
            if parent(folder) in kept:
                kept.add(folder)
        files = {p: bytes(self.contents[f]) for p, f in self.entries.items() if parent(p) in kept}
        return Image(files, frozenset(kept))


def parent(path: str) -> str:
    """Of `a/b` it is `a`, of `a` it is the root."""
    return path.rpartition("/")[0] or ROOT


def after_power_loss(image: Image, steps: Iterable[Step], chance: random.Random) -> Image:
    """What may be left of `image` and the `steps` that were done to it."""
    durable = FileSystem(image)
    changes: dict[int, list[Change]] = {}
    namings: list[Naming] = []
    for step in steps:
        match step:
            case Write(file) | Truncate(file):
                changes.setdefault(file, []).append(step)
            case SyncFile(file):
                _apply_all(durable, changes.pop(file, ()))
            case SyncFolder(path):
                _apply_all(durable, (each for each in namings if parent(each.path) == path))
                namings = [each for each in namings if parent(each.path) != path]
            case Link(_, int(file)):
                durable.contents.setdefault(file, bytearray())
                namings.append(step)
            case _:
                namings.append(step)
    for file, pending in changes.items():
        _apply_all(durable, _survivors(durable.contents[file], pending, chance))
    _apply_all(durable, _some(namings, chance))
    return durable.image()


def _apply_all(state: FileSystem, steps: Iterable[Step]) -> None:
    for step in steps:
        state.apply(step)


def _survivors(
    content: bytearray, changes: Sequence[Change], chance: random.Random
) -> list[Change]:
    """What of the changes to one file is kept; first of all perhaps its growth without the bytes,
    in whose place are zeros, or whatever was on the disk before. Bytes may all be there and none of
    the changes of its size."""
    if chance.random() < 0.25:
        changes = [change for change in changes if isinstance(change, Write)]
    grain = chance.choice((512, 4096))
    kept = _some([piece for change in changes for piece in _pieces(change, grain)], chance)
    grown = max((c.offset + len(c.data) for c in changes if isinstance(c, Write)), default=0)
    more = grown - len(content)
    if more <= 0 or any(isinstance(change, Truncate) for change in changes):
        return kept
    filling = chance.choice((b"", bytes(more), chance.randbytes(more)))
    return [Write(changes[0].file, len(content), filling), *kept]


def _pieces(change: Change, grain: int) -> Iterator[Change]:
    """Cut at multiples of `grain`, since a sector or a page is written as a whole."""
    if isinstance(change, Truncate):
        yield change
        return
    at, end = change.offset, change.offset + len(change.data)
    while at < end:
        stop = min(end, at - at % grain + grain)
        yield Write(change.file, at, change.data[at - change.offset : stop - change.offset])
        at = stop


def _some(steps: Sequence[T], chance: random.Random) -> list[T]:
    """Those that are kept, in order: often all or none, the first ones, all but one, only one; or
    any."""
    count = len(steps)
    if not count:
        return []
    one = chance.randrange(count)
    manners = (
        range(0), range(count), range(one), (one,), [at for at in range(count) if at != one],
        [at for at in range(count) if chance.random() < 0.5],
    )  # fmt: skip
    return [steps[at] for at in chance.choice(manners)]

"""A node's volumes and its index rot while it is down, in every way that bytes can: after it has
started again, what it serves is right, or absent, or an error; and what was not harmed is there.

As a reader does, the test takes a record whose payload does not match its checksum for an error.
After a pass of scrub, no such record may be served at all.
"""

import errno
import os
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import uvloop

from common.errors import SixfoldError
from common.ids import ShardAddress
from common.record import HEADER_BYTES
from common.shards import ShardRecord
from shardd.volume import PAGE_BYTES, volume_name
from tests.disks.crashing import CrashDisk
from tests.disks.filesystem import Image
from tests.disks.layered import Call, LayeredDisk
from tests.flips import live_entries
from tests.stores import make_shard
from tests.torture.crash_node import (
    Broken,
    IndexFiles,
    RunningNode,
    index_files,
    named,
    place_index,
)
from tests.torture.outcome import Outcome, quiet, scaled, scratch
from tests.torture.rot_kinds import KINDS, Files, Place, Rot, damaged_index

ROW = 6
PROMISE = "a node that has rotted serves nothing wrong, and all that was not harmed"
CORRUPTIONS = 10_000

SIZES = (0, 1, 300, 300, 300, 5000, 5000, 40_000, 70_000, 70_000, 66_000)
SCRUBBED = 0.2  # of the nodes
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Whole:
    """The node before anything happens to it."""

    image: Image
    index: IndexFiles
    live: dict[ShardAddress, tuple[ShardRecord, Place]]
    dead: Sequence[ShardRecord]


@dataclass
class Tally:
    corruptions: int = 0
    right: int = 0
    absent: int = 0
    errors: int = 0
    violations: list[str] = field(default_factory=list)

    def figure(self) -> str:
        return (
            f"{self.corruptions:,} corruptions, {len(self.violations):,} violations; reads: "
            f"{self.right:,} right, {self.absent:,} absent, {self.errors:,} errors"
        )


def main(scale: float, seed: int) -> Outcome:
    with scratch("rot", in_memory=True) as root, quiet():
        tally = uvloop.run(_run(root, scaled(CORRUPTIONS, scale), seed))
    return Outcome(tally.figure(), tally.violations)


async def _run(root: Path, wanted: int, seed: int) -> Tally:
    (root / "data").mkdir()
    tally, whole = Tally(), await _make(root)
    for number in range(wanted):
        case = _Case(root, whole, random.Random(f"{seed}/{number}"))
        tally.corruptions += 1
        try:
            await case.run(tally)
        except (Broken, SixfoldError, OSError) as error:
            tally.violations.append(f"corruption {number}, {case.told}: {error}")
    return tally


async def _make(root: Path) -> Whole:
    """Several volumes of both classes, with dead records and tombstones among the live ones."""
    disk = CrashDisk(root)
    node = await RunningNode(disk, root / "data").start()
    shards = [make_shard(size, seed) for seed in range(4) for size in SIZES]
    for number, shard in enumerate(shards):
        await node.store.append([shard])
        if number % 5 == 4:
            await node.store.delete([shards[number - 2].address])
    entries = {entry.info.address: entry for entry in live_entries(node.store)}
    await node.stop()
    live = {
        shard.address: (shard, Place(_path(entry.volume), entry.offset, HEADER_BYTES + size))
        for shard in shards
        if (entry := entries.get(shard.address)) is not None
        for size in [entry.payload_bytes]
    }
    dead = [shard for shard in shards if shard.address not in live]
    return Whole(disk.content, index_files(root / "data"), live, dead)


def _path(volume: int) -> str:
    return f"data/volumes/{volume_name(volume)}"


class _BadSector(LayeredDisk):
    """Cannot read one page of one file."""

    def __init__(self, inner: CrashDisk, name: str, page: int) -> None:
        super().__init__(inner)
        self._name, self._page = name, page

    def _around(self, call: Call, work: Callable[[], T]) -> T:
        hit = call.offset < self._page + PAGE_BYTES and self._page < call.offset + call.size_bytes
        if call.name.startswith("preadv") and call.path.name == self._name and hit:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return work()


class _Case:
    """One harm, or a few, to one copy of the node."""

    def __init__(self, root: Path, whole: Whole, chance: random.Random) -> None:
        self.told = ""
        self._root, self._whole, self._chance = root, whole, chance
        self._index = whole.index
        self._must_be_there = True
        self._bad: tuple[str, int] | None = None
        self._files: Files = {
            path: bytearray(data)
            for path, data in whole.image.files.items()
            if path.endswith(".vol")
        }

    async def run(self, tally: Tally) -> None:
        """Raises Broken, or what keeps the node from starting."""
        self._harm()
        image = Image(
            {**self._whole.image.files, **_frozen(self._files)}, self._whole.image.folders
        )
        disk = CrashDisk(self._root, image)
        place_index(self._root / "data", self._index)
        layered = disk if self._bad is None else _BadSector(disk, *self._bad)
        node = await RunningNode(layered, self._root / "data").start()
        try:
            await self._check(node, tally)
            if self._chance.random() < SCRUBBED:
                await self._scrub(node)
        finally:
            await node.stop()

    def _harm(self) -> None:
        chance, what = self._chance, self._chance.random()
        if what < 0.2:
            self._harm_index()
        elif what < 0.3:
            name = chance.choice(sorted(self._files))
            page = chance.randrange(0, len(self._files[name]), PAGE_BYTES)
            self._bad = (Path(name).name, page)
            self.told += f"page {page} of {Path(name).name} cannot be read, "
        else:
            places = [place for _, place in self._whole.live.values()]
            for _ in range(chance.choice((1, 1, 2, 3))):
                kind = chance.choice(KINDS)
                self.told += f"{kind.__name__}, "
                kind(Rot(self._files, places, chance))
        if self._index is self._whole.index and chance.random() < 0.5:
            self._index = {}
            self.told += "no index"

    def _harm_index(self) -> None:
        self.told += "damaged index, "
        (name,) = (name for name in self._whole.index if name.endswith(".db"))
        data = damaged_index(self._whole.index[name], self._chance)
        self._index = {**self._whole.index, name: data}
        if self._chance.random() < 0.3:
            self.told += "after a crash, "  # which is not always noticed
            self._index = {name: data}
            self._must_be_there = False

    async def _check(self, node: RunningNode, tally: Tally) -> None:
        for address, (shard, place) in self._whole.live.items():
            fate = await _read(node, shard)
            tally.right += fate == "right"
            tally.absent += fate == "absent"
            tally.errors += fate == "error"
            if fate != "right" and self._must_be_there and not self._is_harmed(place):
                raise Broken(f"{named(address)} at {place} was not harmed, but its read is: {fate}")
        for shard in self._whole.dead:
            await _read(node, shard)

    def _is_harmed(self, place: Place) -> bool:
        now, before = self._files[place.path], self._whole.image.files[place.path]
        if now[place.offset : place.end] != before[place.offset : place.end]:
            return True
        if self._bad is None or self._bad[0] != Path(place.path).name:
            return False
        return place.offset < self._bad[1] + PAGE_BYTES and self._bad[1] < place.end

    async def _scrub(self, node: RunningNode) -> None:
        node.store.upkeep.scrubber.start()
        while await node.store.scrub_once():
            pass
        for shard, place in self._whole.live.values():
            fate = await _read(node, shard)
            if fate == "error" and self._bad is None:
                raise Broken(f"{named(shard.address)} is served rotten after scrub")
            if fate != "right" and self._must_be_there and not self._is_harmed(place):
                raise Broken(f"{named(shard.address)} at {place} was not harmed, but scrub took it")


def _frozen(files: Files) -> dict[str, bytes]:
    return {path: bytes(data) for path, data in files.items()}


async def _read(node: RunningNode, shard: ShardRecord) -> str:
    """right, absent or error; raises Broken for anything that a reader would take for right."""
    try:
        (found,) = await node.store.read([shard.address])
    except SixfoldError:
        return "error"
    if not isinstance(found, ShardRecord):
        return "absent"
    if not found.is_intact():
        return "error"
    if found.info != shard.info or found.payload != shard.payload:
        raise Broken(f"{named(shard.address)} is served wrong")
    return "right"

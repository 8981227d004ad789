"""Short programs for a store, and what their runs leave to be checked.

A new operation is a coroutine that is added to OPERATIONS.
"""

from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path

from common.errors import Corrupt, StorageFull
from common.ids import ShardAddress
from common.record import HEADER_BYTES
from common.shards import ShardRecord
from common.units import KIB
from shardd.quarantine import Quarantine
from shardd.store import VolumeStore
from tests.disks.crashing import CrashDisk
from tests.disks.faulty import FaultyDisk, Short
from tests.disks.filesystem import Image, Step
from tests.flips import live_entries
from tests.stores import make_shard
from tests.torture.crash_node import (
    ANY,
    Broken,
    Event,
    Fate,
    Fates,
    History,
    IndexFiles,
    RunningNode,
    index_files,
    only,
)
from tests.upkeep import compact_all

SMALL_BYTES, LARGE_BYTES, ROLL_BYTES = 300, 70 * KIB, 53 * KIB
PAGES_BYTES = 5000  # of two neighbours one may be lost and the other kept


@dataclass(slots=True)
class Run:
    """A program on its way. `faults` is the disk of the node, over `disk`. `indexes` are copies of
    the index, each from before that step of the disk."""

    disk: CrashDisk
    faults: FaultyDisk
    node: RunningNode
    history: History
    indexes: list[IndexFiles] = field(default_factory=list)
    used: int = 0

    def shard(self, size_bytes: int) -> ShardRecord:
        """A new one."""
        self.used += 1
        return make_shard(size_bytes, len(self.history.shards) + 1000 * self.used)

    @property
    def quarantine(self) -> Quarantine:
        return self.node.store.upkeep.quarantine

    @property
    def live(self) -> list[ShardAddress]:
        return self.history.now(Fate.SERVED)

    async def call(
        self,
        work: Awaitable[object],
        after: Mapping[ShardAddress, Fates],
        until: Mapping[ShardAddress, Fates] = {},
        told: bool = True,
    ) -> None:
        """Do it, and note what may have become of shards once it is done, and what else before.
        `told`: somebody hears that it was done, and relies on it."""
        begun = len(self.disk.steps)
        await work
        self.history.note(Event(begun, len(self.disk.steps), after, until))

    def orphans_become(self, fate: Fate) -> dict[ShardAddress, Fates]:
        """All that are in quarantine; and those that may be, perhaps."""
        allowed = self.history.allowed(len(self.disk.steps))
        orphans = {a: allowed[a] for a in self.history.orphans()}
        sure = only(Fate.ASIDE)
        return {a: only(fate) if was == sure else was | {fate} for a, was in orphans.items()}

    async def append(self, *shards: ShardRecord) -> None:
        """What is torn before the answer, recovery may take for rot."""
        self.history.shards.update({shard.address: shard for shard in shards})
        served = {shard.address: only(Fate.SERVED) for shard in shards}
        torn = dict.fromkeys(served, only(Fate.ASIDE))
        await self.call(self.node.store.append(shards), served, torn)

    async def delete(self, address: ShardAddress) -> None:
        known = [address] if address in self.history.shards else []
        after = {address: self.history.absent(address) for address in known}
        await self.call(self.node.store.delete([address]), after)


async def small(run: Run) -> None:
    await run.append(run.shard(SMALL_BYTES))


async def large(run: Run) -> None:
    await run.append(run.shard(LARGE_BYTES))


async def both(run: Run) -> None:
    """Small and large ones in one call."""
    await run.append(*(run.shard(size) for size in (PAGES_BYTES, LARGE_BYTES, PAGES_BYTES)))


async def again(run: Run) -> None:
    """The same address once more, whether it is live or not."""
    known = list(run.history.shards.values())
    await run.append(known[-1] if known else run.shard(SMALL_BYTES))


async def delete(run: Run) -> None:
    await run.delete(run.live[-1] if run.live else make_shard(1).address)


async def delete_first(run: Run) -> None:
    await run.delete(run.live[0] if run.live else make_shard(1).address)


async def delete_absent(run: Run) -> None:
    await run.delete(make_shard(2).address)


async def roll(run: Run) -> None:
    """More than fits beside anything else in a volume."""
    await run.append(*(run.shard(ROLL_BYTES) for _ in range(3)))


async def reopen(run: Run) -> None:
    await run.node.stop()
    await run.node.start()


async def compact(run: Run) -> None:
    await run.call(compact_all(run.node.store), {})


async def refused(run: Run) -> None:
    """The disk is full before the last byte of two shards is written: nothing of them may stay."""
    shards = [run.shard(PAGES_BYTES) for _ in range(2)]
    run.history.shards.update({shard.address: shard for shard in shards})
    gone = {shard.address: only(Fate.GONE) for shard in shards}
    run.faults.script("pwritev", Short(1))
    begun = dict.fromkeys(gone, only(Fate.SERVED, Fate.ASIDE))
    await run.call(_refused(run.node.store, shards), gone, begun)


async def _refused(store: VolumeStore, shards: Sequence[ShardRecord]) -> None:
    with suppress(StorageFull):
        await store.append(shards)
        raise Broken("a full disk has taken a shard")


async def set_aside(run: Run) -> None:
    """As an orphan."""
    orphans = run.live[-1:]
    run.history.filed.update(orphans)
    await run.call(_set_aside(run, orphans), dict.fromkeys(orphans, only(Fate.ASIDE)))


async def _set_aside(run: Run, orphans: Sequence[ShardAddress]) -> None:
    """What cannot be read stays, and is found by another listing."""
    if await run.quarantine.set_aside(orphans) < len(orphans):
        raise Corrupt("not all orphans could be set aside")


async def restore(run: Run) -> None:
    """All orphans."""
    after = run.orphans_become(Fate.SERVED)
    certain = sum(fates == {Fate.SERVED} for fates in after.values())
    await run.call(_restored(run, list(after), certain), after, told=certain > 0)


async def _restored(run: Run, orphans: Sequence[ShardAddress], least: int) -> None:
    if await run.quarantine.restore(orphans) < least:
        raise Corrupt("not all orphans could be taken back")


async def expire(run: Run) -> None:
    """All orphans. Nobody is told that they are gone."""
    await run.call(run.quarantine.expire(-1), run.orphans_become(Fate.GONE), told=False)


async def condemn(run: Run) -> None:
    """Rot, which scrub finds; a crash may come before it does, or recovery cut it off. A node that
    is read-only only lists it. Nobody is told that it is set aside."""
    rotten = run.live[:1]
    run.history.filed.update(rotten)
    run.history.rotten.update(rotten)
    stays = run.node.store.failure is not None
    after = dict.fromkeys(rotten, ANY if stays else only(Fate.ASIDE))
    await run.call(_scrubbed(run, rotten), after, dict.fromkeys(rotten, ANY), told=False)


async def _scrubbed(run: Run, rotten: Sequence[ShardAddress]) -> None:
    store = run.node.store
    for entry in live_entries(store):
        if entry.key in [address.key for address in rotten]:
            path = store._volumes.by_number[entry.volume].path
            run.disk.rot(path, entry.offset + HEADER_BYTES)
    store.upkeep.scrubber.start()
    while store.upkeep.scrub_report().running:
        await store.scrub_once()


Operation = Callable[[Run], Awaitable[None]]
OPERATIONS: tuple[Operation, ...] = (
    small, large, both, again, delete, delete_first, delete_absent, roll, reopen, compact,
    refused, set_aside, restore, condemn, expire,
)  # fmt: skip
Program = tuple[Operation, ...]
# What a node has been through before a program begins. In `buried`, one volume holds a dead shard
# and another its tombstone; compaction takes both away and makes no volume between.
PASTS: dict[str, Program] = {
    "new": (),
    "used": (small, large, small, delete, large, delete, roll, small),
    "buried": (large, small, delete_first, roll, small),
}
LONGEST = {"new": 3, "used": 3, "buried": 2}  # programs, of how many operations


def programs(length: int) -> Iterator[Program]:
    """All of this length."""
    return product(OPERATIONS, repeat=length)


def name_of(program: Sequence[Operation]) -> str:
    return " ".join(operation.__name__ for operation in program) or "nothing"


def program_of(names: str) -> Program:
    """The opposite."""
    by_name = {operation.__name__: operation for operation in OPERATIONS}
    return tuple(by_name[name] for name in names.split() if name != "nothing")


@dataclass(frozen=True, slots=True)
class Trace:
    """What a run leaves. A crash comes after some number of `steps`, not before `first`, where the
    last operation begins: the crashes before that are those of a shorter program."""

    image: Image
    steps: Sequence[Step]
    first: int
    history: History
    indexes: Sequence[IndexFiles]
    past: str
    program: Program

    def disk(self, root: Path) -> CrashDisk:
        return CrashDisk(root, self.image, self.steps)


async def run_program(root: Path, past: str, program: Program, flush: Sequence[bool]) -> Trace:
    """On a new disk. `flush` says after which operations the index is written."""
    folder = root / "data"
    disk = _Watched(root)
    faults = FaultyDisk(disk)
    run = Run(disk, faults, RunningNode(faults, folder), History())
    disk.before_step = lambda: run.indexes.append(index_files(folder))
    await run.node.start()
    first = 0
    for number, operation in enumerate(PASTS[past] + program):
        if program and number == len(PASTS[past] + program) - 1:
            first = len(disk.steps)
        await operation(run)
        if flush[number % len(flush)]:
            await run.node.store.stat()
    run.indexes.append(index_files(folder))
    steps = list(disk.steps)
    await run.node.stop()
    return Trace(disk.image, steps, first, run.history, run.indexes, past, program)


class _Watched(CrashDisk):
    """Says when a step comes."""

    before_step: Callable[[], None] | None = None

    def _do(self, step: Step) -> None:
        if self.before_step is not None:
            self.before_step()
        super()._do(step)

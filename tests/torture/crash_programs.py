"""Short programs for a store, and what their runs leave to be checked.

A new operation is a coroutine that is added to OPERATIONS.
"""

from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path

from common.ids import ShardAddress
from common.shards import ShardRecord
from common.units import KIB
from tests.disks.crashing import CrashDisk
from tests.disks.filesystem import Image, Step
from tests.stores import make_shard
from tests.torture.crash_node import Event, History, IndexFiles, RunningNode, index_files

SMALL_BYTES, LARGE_BYTES, ROLL_BYTES = 300, 70 * KIB, 53 * KIB
PAGES_BYTES = 5000  # of two neighbours one may be lost and the other kept


@dataclass(slots=True)
class Run:
    """A program on its way. `indexes` are copies of the index, each from before that step of the
    disk."""

    disk: CrashDisk
    node: RunningNode
    history: History
    indexes: list[IndexFiles] = field(default_factory=list)
    used: int = 0

    def shard(self, size_bytes: int) -> ShardRecord:
        """A new one."""
        self.used += 1
        return make_shard(size_bytes, len(self.history.shards) + 1000 * self.used)

    async def append(self, *shards: ShardRecord) -> None:
        begun = len(self.disk.steps)
        await self.node.store.append(shards)
        self.history.note(Event(begun, len(self.disk.steps), appended=shards))

    async def delete(self, address: ShardAddress) -> None:
        begun = len(self.disk.steps)
        await self.node.store.delete([address])
        if address in self.history.shards:
            self.history.note(Event(begun, len(self.disk.steps), deleted=[address]))


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
    live = run.history.live()
    await run.delete(live[-1] if live else make_shard(1).address)


async def delete_first(run: Run) -> None:
    live = run.history.live()
    await run.delete(live[0] if live else make_shard(1).address)


async def delete_absent(run: Run) -> None:
    await run.delete(make_shard(2).address)


async def roll(run: Run) -> None:
    """More than fits beside anything else in a volume."""
    await run.append(*(run.shard(ROLL_BYTES) for _ in range(3)))


async def reopen(run: Run) -> None:
    await run.node.stop()
    await run.node.start()


async def compact(run: Run) -> None:
    await run.node.store.compact_once()


Operation = Callable[[Run], Awaitable[None]]
OPERATIONS: tuple[Operation, ...] = (
    small, large, both, again, delete, delete_first, delete_absent, roll, reopen, compact,
)  # fmt: skip
Program = tuple[Operation, ...]
# What a node has been through before a program begins.
PASTS: dict[str, Program] = {
    "new": (),
    "used": (small, large, small, delete, large, delete, roll, small),
}


def programs(length: int) -> Iterator[Program]:
    """All of this length."""
    return product(OPERATIONS, repeat=length)


def name_of(program: Sequence[Operation]) -> str:
    return " ".join(operation.__name__ for operation in program) or "nothing"


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
    run = Run(disk, RunningNode(disk, folder), History())
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

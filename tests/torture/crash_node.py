"""A node's store on a simulated disk: what happened to it, and what it holds after a crash."""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from common.errors import SixfoldError
from common.ids import ShardAddress
from common.shards import ShardRecord
from common.units import GIB, KIB
from shardd.disk import Disk
from shardd.identity import DataDirectory
from shardd.index import remove_index
from shardd.index_seal import SUFFIX as SEAL
from shardd.store import StoreLimits, VolumeStore
from shardd.upkeep import UpkeepLimits
from tests.stores import CLUSTER_ID

# Two large records fill a volume. Whatever is dead in a volume is worth a compaction.
UPKEEP = UpkeepLimits(
    compact_dead_part=0.0, compact_bytes_per_s=100 * GIB, scrub_bytes_per_s=100 * GIB
)
LIMITS = StoreLimits(reserve_bytes=0, volume_bytes=160 * KIB, upkeep=UPKEEP)

IndexFiles = Mapping[str, bytes]  # by suffix; none is an index that was lost


class Event(NamedTuple):
    """A call of the store: after how many steps of the disk it began and was answered."""

    begun: int
    answered: int
    appended: Sequence[ShardRecord] = ()
    deleted: Sequence[ShardAddress] = ()


@dataclass(slots=True)
class History:
    """What was asked of a store since it was new, and all shards that ever were in it."""

    events: list[Event] = field(default_factory=list)
    shards: dict[ShardAddress, ShardRecord] = field(default_factory=dict)

    def note(self, event: Event) -> None:
        self.events.append(event)
        self.shards.update({shard.address: shard for shard in event.appended})

    def live(self) -> list[ShardAddress]:
        """After all that was asked, the latest last."""
        live: dict[ShardAddress, None] = {}
        for event in self.events:
            for shard in event.appended:
                live.pop(shard.address, None)
                live[shard.address] = None
            for address in event.deleted:
                live.pop(address, None)
        return list(live)

    def allowed(self, after: int) -> dict[ShardAddress, set[bool]]:
        """For each shard, whether it may be there when a crash comes after so many steps: what was
        answered holds; what had only begun may have happened to each shard, or not."""
        allowed = {address: {False} for address in self.shards}
        for event in self.events:
            changes = {shard.address: True for shard in event.appended}
            changes |= dict.fromkeys(event.deleted, False)
            for address, present in changes.items():
                if event.answered <= after:
                    allowed[address] = {present}
                elif event.begun < after:
                    allowed[address] |= {present}
        return allowed


class Broken(Exception):
    """The store does not keep its promise."""


class RunningNode:
    """A store that is open on `disk`. SQLite and the lock are in `folder`, in a real directory."""

    def __init__(self, disk: Disk, folder: Path) -> None:
        self.disk, self._folder = disk, folder

    async def start(self) -> "RunningNode":
        self._directory = DataDirectory(self._folder, "node", self.disk)
        try:
            self._directory.join(CLUSTER_ID, 1)
            self.store = await VolumeStore.open(self._directory, LIMITS, self.disk)
        except BaseException:
            self._directory.close()
            raise
        return self

    async def stop(self) -> None:
        await self.store.close()
        self._directory.close()

    async def present(self, shards: Mapping[ShardAddress, ShardRecord]) -> frozenset[ShardAddress]:
        """Which of these, all that ever were, are there. Raises Broken for wrong bytes, and if
        reading, listing and counting do not tell the same."""
        found = {address: await self._read(address, shards) for address in shards}
        present = frozenset(address for address, shard in found.items() if shard is not None)
        listed = [info async for info in self.store.list()]
        if [info.address for info in listed] != sorted(present):
            raise Broken("the listing tells other shards than reading")
        if any(info != shards[info.address].info for info in listed):
            raise Broken("the listing describes a shard wrongly")
        counted = (await self.store.stat()).shards
        if counted != len(present):
            raise Broken(f"{counted} shards are counted, {len(present)} are there")
        return present

    async def _read(
        self, address: ShardAddress, shards: Mapping[ShardAddress, ShardRecord]
    ) -> ShardRecord | None:
        try:
            (found,) = await self.store.read([address])
        except SixfoldError as error:
            raise Broken(f"{named(address)} cannot be read: {error}") from error
        if not isinstance(found, ShardRecord):
            return None
        if found.info != shards[address].info or found.payload != shards[address].payload:
            raise Broken(f"{named(address)} is not what was stored")
        return found


def named(address: ShardAddress) -> str:
    """Enough to tell the shards of a test apart."""
    return str(address)[:12]


def check_allowed(
    present: Collection[ShardAddress], allowed: Mapping[ShardAddress, set[bool]]
) -> None:
    """Raises Broken if something is lost, or has come back."""
    for address, states in allowed.items():
        if (address in present) not in states:
            fate = "has come back" if address in present else "is lost"
            raise Broken(f"{named(address)} {fate}")


def index_files(folder: Path) -> IndexFiles:
    """A copy of the index as it is now."""
    return dict(_read_all(folder / f"index.db{suffix}" for suffix in ("", "-wal", SEAL)))


def _read_all(paths: Iterable[Path]) -> Iterator[tuple[str, bytes]]:
    for path in paths:
        if path.exists():
            yield path.name, path.read_bytes()


def place_index(folder: Path, files: IndexFiles) -> None:
    """Put this index there, in place of what is."""
    remove_index(folder / "index.db")
    for name, data in files.items():
        (folder / name).write_bytes(data)

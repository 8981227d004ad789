"""A node's store on a simulated disk: what happened to it, and what it holds after a crash."""

import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import NamedTuple

from common.errors import Corrupt, SixfoldError
from common.ids import ShardAddress
from common.shards import ShardRecord
from common.units import GIB, KIB
from common.upkeep import Why
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


class Fate(StrEnum):
    """Where a shard that ever was in a store is now. `rotten` is in service but fails its checksum;
    `aside` is in quarantine."""

    SERVED = "served"
    ROTTEN = "rotten"
    ASIDE = "aside"
    GONE = "gone"


Fates = frozenset[Fate]
ANY = Fates(Fate)
NEVER = sys.maxsize  # an answer that did not come


def only(*fates: Fate) -> Fates:
    return Fates(fates)


class Event(NamedTuple):
    """A call of the store: after how many steps of the disk it began and was answered; what shards
    may have come to from its answer on, and what else until then."""

    begun: int
    answered: int
    after: Mapping[ShardAddress, Fates]
    until: Mapping[ShardAddress, Fates] = {}


@dataclass(slots=True)
class History:
    """What was asked of a store since it was new, and all shards that ever were in it. A file in
    quarantine may come back after a power loss, as long as nobody waited for its removal: `filed`
    are the shards that have had one. Those that have rotted are no orphans."""

    events: list[Event] = field(default_factory=list)
    shards: dict[ShardAddress, ShardRecord] = field(default_factory=dict)
    filed: set[ShardAddress] = field(default_factory=set)
    rotten: set[ShardAddress] = field(default_factory=set)
    _latest: dict[ShardAddress, None] = field(default_factory=dict)

    def note(self, event: Event) -> None:
        self.events.append(event)
        for address in event.after:
            self._latest.pop(address, None)
            self._latest[address] = None

    def now(self, fate: Fate) -> list[ShardAddress]:
        """The shards that have come to this after all that was asked, the latest last."""
        allowed = self.allowed(NEVER - 1)
        return [address for address in self._latest if allowed[address] == {fate}]

    def orphans(self) -> list[ShardAddress]:
        """That are in quarantine, or may be."""
        allowed = self.allowed(NEVER - 1)
        return [a for a in self._latest if Fate.ASIDE in allowed[a] and a not in self.rotten]

    def absent(self, address: ShardAddress) -> Fates:
        """What may have become of it once it is deleted."""
        return only(Fate.GONE, Fate.ASIDE) if address in self.filed else only(Fate.GONE)

    def allowed(self, after: int) -> dict[ShardAddress, Fates]:
        """What each shard may have come to when a crash comes after so many steps: what was
        answered holds; what had only begun may have happened to each shard, or not."""
        allowed = dict.fromkeys(self.shards, only(Fate.GONE))
        for event in self.events:
            for address, fates in event.after.items():
                if event.answered <= after:
                    allowed[address] = fates
                elif event.begun < after:
                    allowed[address] |= fates | event.until.get(address, only())
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

    async def fates(
        self, shards: Mapping[ShardAddress, ShardRecord], fresh: bool = True
    ) -> dict[ShardAddress, Fate]:
        """Of these, all that ever were. Raises Broken for wrong bytes, and if reading, listing and
        counting do not tell the same. Only if it is not `fresh` from its start, a shard may be in
        service and in quarantine: one that was appended again."""
        fates = {address: await self._fate(address, shards[address]) for address in shards}
        served = [a for a, fate in fates.items() if fate in (Fate.SERVED, Fate.ROTTEN)]
        listed = [info async for info in self.store.list()]
        if [info.address for info in listed] != sorted(served):
            raise Broken("the listing tells other shards than reading")
        if any(info != shards[info.address].info for info in listed):
            raise Broken("the listing describes a shard wrongly")
        counted = (await self.store.stat()).shards
        if counted != len(served):
            raise Broken(f"{counted} shards are counted, {len(served)} are there")
        for kept in self.store.upkeep.quarantine.page(None, len(shards) + 1):
            if fates.get(kept.address) is Fate.GONE:
                fates[kept.address] = Fate.ASIDE
            elif fresh:
                raise Broken(f"{named(kept.address)} is in service and in quarantine")
        return fates

    async def _fate(self, address: ShardAddress, shard: ShardRecord) -> Fate:
        try:
            (found,) = await self.store.read([address])
        except SixfoldError as error:
            raise Broken(f"{named(address)} cannot be read: {error}") from error
        if not isinstance(found, ShardRecord):
            return Fate.GONE
        if found.info == shard.info and found.payload == shard.payload:
            return Fate.SERVED
        if found.is_intact():
            raise Broken(f"{named(address)} is not what was stored")
        return Fate.ROTTEN

    def check_kept(self, shard: ShardRecord) -> None:
        """Raises Broken unless quarantine has what it must have of this shard. An orphan is whole;
        of rot no byte can be relied on, and on a full disk it has none."""
        quarantine = self.store.upkeep.quarantine
        kept = quarantine._kept[shard.address]
        if kept.why is Why.ROT:
            if 0 < kept.size_bytes < len(shard.payload):
                raise Broken(f"of {named(kept.address)} only {kept.size_bytes} bytes are kept")
            return
        try:
            record = quarantine._folder.read(kept)
        except Corrupt as error:
            raise Broken(f"{named(kept.address)} is lost in quarantine: {error}") from error
        if record.payload != shard.payload:
            raise Broken(f"{named(kept.address)} is another shard in quarantine")


def named(address: ShardAddress) -> str:
    """Enough to tell the shards of a test apart."""
    return str(address)[:12]


def check_allowed(
    node: RunningNode, fates: Mapping[ShardAddress, Fate], history: History, after: int
) -> None:
    """Raises Broken if something is lost, or has come back."""
    for address, wanted in history.allowed(after).items():
        if fates[address] not in wanted:
            raise Broken(f"{named(address)} is {fates[address]}, not {' or '.join(sorted(wanted))}")
        if fates[address] is Fate.ASIDE and Fate.GONE not in wanted:
            node.check_kept(history.shards[address])


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

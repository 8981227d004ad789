"""A node stores and deletes for a long time while compaction and readers work beside it: every read
is right, and the room that the file system says is taken follows what is live."""

import asyncio
import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import uvloop

from common.ids import ShardAddress
from common.shards import ShardMissing, ShardRecord
from common.units import GIB, KIB, MIB
from shardd.store import StoreLimits, VolumeStore
from shardd.upkeep import UpkeepLimits
from tests.stores import make_shard
from tests.torture.outcome import Outcome, quiet, scaled, scratch
from tests.upkeep import opened, without_index

ROW = 3
PROMISE = "the room of what is deleted comes back, while everything else is read"
ROUNDS = 400

WRITTEN = 100  # shards in a round
KEPT = 0.2  # of them, and of all before
READERS = 4
VOLUME_BYTES = MIB
DEAD_PART = 0.3
LIMITS = StoreLimits(
    volume_bytes=VOLUME_BYTES,
    reserve_bytes=VOLUME_BYTES,
    upkeep=UpkeepLimits(compact_dead_part=DEAD_PART, compact_bytes_per_s=100 * GIB),
)


@dataclass
class Tally:
    written_bytes: int = 0
    deleted: int = 0
    reads: int = 0
    volumes: int = 0
    most_taken: float = 0.0  # bytes on disk for each live one, beyond the open volumes
    violations: list[str] = field(default_factory=list)

    def figure(self, rounds: int) -> str:
        return (
            f"{rounds} rounds, {self.written_bytes / MIB:,.0f} MiB written, {self.deleted:,} "
            f"shards deleted, {self.volumes:,} volumes compacted beside {self.reads:,} reads; "
            f"{self.most_taken:.2f} times what is live on disk at most, "
            f"{len(self.violations)} violations"
        )


def main(scale: float, seed: int) -> Outcome:
    rounds, tally = scaled(ROUNDS, scale, least=2), Tally()
    with scratch("room") as path, quiet():
        node = _Node(path, random.Random(seed), tally)
        for number in range(rounds):
            uvloop.run(node.live_on())
            if number % 5 == 4:
                without_index(path)
        uvloop.run(node.end())
    return Outcome(tally.figure(rounds), tally.violations)


class _Node:
    def __init__(self, path: Path, rng: random.Random, tally: Tally) -> None:
        self.path, self.rng, self.tally = path, rng, tally
        self.live: dict[ShardAddress, ShardRecord] = {}
        self.gone: set[ShardAddress] = set()
        self.made = 0

    async def live_on(self) -> None:
        """From one start to the next."""
        async with opened(self.path, LIMITS) as store:
            done = asyncio.Event()
            others = [asyncio.create_task(self._read(store, done)) for _ in range(READERS)]
            others.append(asyncio.create_task(self._compact(store, done)))
            await self._append(store)
            await self._delete(store, [a for a in self.live if self.rng.random() > KEPT])
            done.set()
            await asyncio.gather(*others)
            self._look_at_room()

    async def end(self) -> None:
        """All is deleted, and all room comes back."""
        async with opened(self.path, LIMITS) as store:
            await self._read_all(store)
            await self._delete(store, list(self.live))
            await self._compact_all(store)
            taken_bytes = self._taken_bytes()
            if taken_bytes > 16 * KIB:
                self.tally.violations.append(f"{taken_bytes} bytes are taken by nothing")

    async def _append(self, store: VolumeStore) -> None:
        for _ in range(WRITTEN):
            size_bytes = self.rng.choice((500, 9 * KIB, 40 * KIB, 70 * KIB, 200 * KIB))
            self.made += 1
            shard = make_shard(size_bytes, self.made)
            await store.append([shard])
            self.live[shard.address] = shard
            self.tally.written_bytes += size_bytes

    async def _delete(self, store: VolumeStore, addresses: Sequence[ShardAddress]) -> None:
        for at in range(0, len(addresses), 16):
            some = addresses[at : at + 16]
            for address in some:
                del self.live[address]
            await store.delete(some)
            self.gone.update(some)
            self.tally.deleted += len(some)

    async def _compact(self, store: VolumeStore, done: asyncio.Event) -> None:
        """As long as anything changes, and then until there is nothing to do."""
        while not done.is_set():
            if await store.compact_once():
                self.tally.volumes += 1
            await asyncio.sleep(0.001)
        await self._compact_all(store)

    async def _compact_all(self, store: VolumeStore) -> None:
        while await store.compact_once():
            self.tally.volumes += 1

    async def _read(self, store: VolumeStore, done: asyncio.Event) -> None:
        while not done.is_set():
            known = list(self.live)[-500:] or list(self.gone)
            await self._look(store, self.rng.choice(known) if known else make_shard(1).address)
            if self.gone:
                await self._look(store, self.rng.choice(tuple(self.gone)))
            await asyncio.sleep(0)

    async def _read_all(self, store: VolumeStore) -> None:
        for address in [*self.live, *self.gone]:
            await self._look(store, address)

    async def _look(self, store: VolumeStore, address: ShardAddress) -> None:
        before, was_gone = self.live.get(address), address in self.gone
        (found,) = await store.read([address])
        self.tally.reads += 1
        stayed = before is not None and address in self.live
        if isinstance(found, ShardMissing):
            if stayed:
                self.tally.violations.append(f"{address} is live and missing")
        elif was_gone:
            self.tally.violations.append(f"{address} was deleted and is served")
        elif before is not None and bytes(found.payload) != before.payload:
            self.tally.violations.append(f"{address} has wrong bytes")

    def _look_at_room(self) -> None:
        """Volumes are worth compacting from a dead part on; two are open and not full, and what
        there is of headers and padding is small."""
        live_bytes = sum(len(shard.payload) + 4 * KIB for shard in self.live.values())
        taken_bytes = self._taken_bytes()
        self.tally.most_taken = max(
            self.tally.most_taken, (taken_bytes - 2 * VOLUME_BYTES) / max(1, live_bytes)
        )
        if taken_bytes > live_bytes / (1 - DEAD_PART) + 3 * VOLUME_BYTES:
            self.tally.violations.append(f"{taken_bytes} bytes are taken for {live_bytes}")

    def _taken_bytes(self) -> int:
        """As `df` counts: in blocks."""
        files = (self.path / "volumes").iterdir()
        return sum(file.stat().st_blocks * 512 for file in files)

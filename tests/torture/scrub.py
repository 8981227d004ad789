"""Bytes flip in the volumes of a node, anywhere in what is live: scrub finds every record that was
hit, and only those; what it found is not served again, also not after the index was made anew.
"""

import asyncio
import random
from pathlib import Path

from common.errors import Corrupt
from common.ids import ShardAddress
from common.shards import ShardMissing, ShardRecord
from common.units import GIB, KIB, MIB
from shardd.store import StoreLimits, VolumeStore
from shardd.upkeep import UpkeepLimits
from tests.flips import flip_many
from tests.stores import make_shard
from tests.torture.outcome import Outcome, quiet, scaled, scratch
from tests.upkeep import opened, without_index

ROW = 6
PROMISE = "scrub finds every flipped byte, and condemns nothing else"
FLIPS = 1000
ROUNDS = 10

LIMITS = StoreLimits(volume_bytes=8 * MIB, upkeep=UpkeepLimits(scrub_bytes_per_s=100 * GIB))


def main(scale: float, seed: int) -> Outcome:
    """Rounds of flips, each into what the last one has left good."""
    rounds, flips = scaled(ROUNDS, scale), scaled(FLIPS, min(1.0, 10 * scale), 20)
    with scratch("scrub") as path, quiet():
        return asyncio.run(_run(path, random.Random(seed), rounds, flips))


async def _run(path: Path, rng: random.Random, rounds: int, flips: int) -> Outcome:
    shards = {shard.address: shard for shard in _shards(rng, 4 * flips)}
    bad, mended, violations = set[ShardAddress](), set[ShardAddress](), list[str]()
    async with opened(path, LIMITS) as store:
        for address in shards:
            await store.append([shards[address]])
    for number in range(rounds):
        async with opened(path, LIMITS) as store:
            hit = flip_many(store, rng, flips)
            store.upkeep.scrubber.start()
            while await store.scrub_once():
                pass
            found = {kept.address for kept in store.upkeep.quarantine.page(None, len(shards))} - bad
            violations += [f"round {number}: {a} was not found" for a in sorted(hit - found)]
            violations += [f"round {number}: {a} is sound" for a in sorted(found - hit)]
            bad |= hit
            violations += await _served(store, shards, bad)
            # Made good, as repair does, so that the next round has as much to hit.
            good_again = sorted(hit)[: len(hit) // 2]
            await store.append([shards[address] for address in good_again])
            bad -= set(good_again)
            mended.update(good_again)
    without_index(path)
    async with opened(path, LIMITS) as store:
        # Of what was mended, a tombstone is certain and the new record not, if a header before it
        # has rotted since (uncertain.py): it is told to be bad, for repair to mend it once more.
        told = {kept.address for kept in store.upkeep.quarantine.page(None, len(shards))}
        violations += await _served(store, shards, bad | mended & told)
    figure = f"{rounds * flips:,} flipped bytes in {rounds} rounds over {len(shards):,} shards"
    return Outcome(f"{figure}, {len(violations)} not found or wrongly condemned", violations)


def _shards(rng: random.Random, count: int) -> list[ShardRecord]:
    """One in fifty is large."""
    sizes = (rng.randint(64 * KIB, 200 * KIB) if rng.random() < 0.02 else rng.randint(0, 9000)
             for _ in range(count))  # fmt: skip
    return [make_shard(size, seed) for seed, size in enumerate(sizes)]


async def _served(
    store: VolumeStore, shards: dict[ShardAddress, ShardRecord], bad: set[ShardAddress]
) -> list[str]:
    """What is served though it is bad, or not though it is good, or wrong."""
    said = []
    for address in shards:
        try:
            (got,) = await store.read([address])
        except Corrupt:
            got = ShardMissing(address)
        if isinstance(got, ShardMissing):
            if address not in bad:
                said.append(f"{address} is good and is not served")
        elif address in bad or bytes(got.payload) != shards[address].payload:
            said.append(f"{address} was served")
    return said

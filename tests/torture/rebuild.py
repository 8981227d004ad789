"""Nodes are lost for good, one to three of nine, or of twelve in three zones, while repair is cut
off again and again and more shards rot: everything comes back, on nodes of its own. What lies
crowded in zones, since part of one was away when it was stored, is spread over them again."""

import asyncio
import random
from contextlib import suppress

from common.failpoints import Point, armed
from common.ids import ContentId
from tests.torture.one_process import NODES, ONE_ZONE, SEGMENT_BYTES, Store
from tests.torture.outcome import Outcome, quiet, scaled, scratch
from tests.torture.wholeness import faults, repaired

ROW = 18
PROMISE = "what nodes lose is rebuilt, verified, on distinct nodes"

LOSSES = 200
ZONES = "aaaabbbbcccc"  # in every second round; of nine nodes each has a shard anyway
LOST_S = 901
CUTS = 3  # how often repair is cut off in each round
SIZES = (0, 1, 700, 64 * 1024, SEGMENT_BYTES, SEGMENT_BYTES + 1, 3 * SEGMENT_BYTES)
POINTS = (Point.MEND_SURVEYED, Point.MEND_WRITTEN, Point.MEND_SWITCHED)


class CutOff(Exception):
    """The process ends here, as far as repair is concerned."""


def main(scale: float, seed: int) -> Outcome:
    """Each round is a store of its own."""
    rounds, rng = scaled(LOSSES, scale), random.Random(seed)
    violations, segments = list[str](), 0
    with scratch("rebuild", in_memory=True) as directory, quiet():
        for number in range(rounds):
            store = Store(directory / str(number), ZONES if number % 2 else ONE_ZONE)
            found, mended = asyncio.run(_one_round(store, rng))
            violations += [f"round {number}: {fault}" for fault in found]
            segments += mended
    figure = f"{rounds} losses of one to three nodes, {segments:,} segments"
    return Outcome(f"{figure}, {len(violations)} not whole again", violations)


async def _one_round(store: Store, rng: random.Random) -> tuple[list[str], int]:
    await store.start()
    try:
        contents = await _stored(store, rng)
        lost = rng.sample(store.up, rng.randint(1, 3))
        for node in lost:
            await store.kill(node)
        await store.pass_time(LOST_S)
        await _rot(store, contents, 3 - len(lost), rng)
        for _ in range(CUTS):
            await _cut_off(store, rng)
        for front in store.fronts:  # a pass of scrub finds what no read came to
            await front.work("scrub")
        await repaired(store, rng.randrange(2))
        found = [fault async for fault in faults(store, contents)]
        return found, (await store.fronts[0].metadata.counts())["segment"]
    finally:
        await store.close()


async def _stored(store: Store, rng: random.Random) -> dict[ContentId, bytes]:
    """While nodes are away that nine shards do not need, all of one zone; they come back then."""
    spare, contents = len(store.nodes) - len(NODES), {}
    zone = rng.choice(list(store.nodes.values())).zone
    near = [number for number, node in store.nodes.items() if node.zone == zone]
    away = rng.sample(near, rng.randint(0, spare))
    for node in away:
        await store.kill(node)
    for size in SIZES:
        data = rng.randbytes(size)
        contents[(await store.fronts[rng.randrange(2)].put(data)).id] = data
    for node in away:
        await store.restart(node)
    return contents


async def _rot(
    store: Store, contents: dict[ContentId, bytes], most: int, rng: random.Random
) -> None:
    """Up to so many shards of each segment, on nodes that are there."""
    for id_ in contents:
        for segment in (await store.fronts[0].reads.find(id_)).segments:
            there = [i for i, node in enumerate(segment.layout) if node in store.up]
            for index in rng.sample(there, rng.randint(0, most)):
                store.nodes[segment.layout[index]].flip(segment.address(index), rng.randrange(99))


async def _cut_off(store: Store, rng: random.Random) -> None:
    """Repair goes on until it comes to some point for the nth time, and not a step further."""
    left = rng.randint(1, 6)

    def count() -> None:
        nonlocal left
        left -= 1
        if left <= 0:
            raise CutOff

    with armed(rng.choice(POINTS), count), suppress(BaseExceptionGroup):
        await store.fronts[rng.randrange(2)].work("repair")

"""Two coordinators do the same at once: store the same bytes, repair the same segments, as when a
job's holder was stopped past its lease and goes on beside its successor."""

import asyncio
import random
from pathlib import Path

from tests.torture.one_process import NODES, SEGMENT_BYTES, Store
from tests.torture.outcome import Outcome, quiet, scaled, scratch
from tests.torture.wholeness import faults, left_behind, repaired

ROW = 9
PROMISE = "two coordinators at the same work leave nothing stale"

RACES = 200
LOST_S = 901
SIZES = (0, 5_000, SEGMENT_BYTES, 2 * SEGMENT_BYTES + 5)


def main(scale: float, seed: int) -> Outcome:
    """Each round is a store of its own."""
    rounds, rng = scaled(RACES, scale), random.Random(seed)
    violations = list[str]()
    with scratch("races", in_memory=True) as directory, quiet():
        for number in range(rounds):
            found = asyncio.run(_one_round(directory / str(number), rng))
            violations += [f"round {number}: {fault}" for fault in found]
    return Outcome(f"{rounds} races, {len(violations)} stale effects", violations)


async def _one_round(directory: Path, rng: random.Random) -> list[str]:
    store = Store(directory)
    await store.start()
    first, second = store.fronts
    try:
        contents = {}
        for size in SIZES:
            data = rng.randbytes(size)
            stored, again = await asyncio.gather(first.put(data), second.put(data))
            contents[stored.id] = data
            assert stored.id == again.id
        for node in rng.sample(NODES, rng.randint(1, 3)):
            await store.kill(node)
        await store.pass_time(LOST_S)
        await asyncio.gather(first.work("repair"), second.work("repair"))
        await asyncio.gather(first.work("outbox"), second.work("outbox"))
        await repaired(store, 0, 1)
        found = [fault async for fault in faults(store, contents)]
        return found + await left_behind(store)
    finally:
        await store.close()

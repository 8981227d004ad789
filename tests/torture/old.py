"""A node's directory is put back from a copy, as after a disk was cloned or a snapshot restored,
somewhere in a random history: what was deleted since stays deleted, no byte is wrong, and repair
makes whole again what the node has forgotten."""

import asyncio
import random
import shutil
from pathlib import Path

from common.errors import NotFound
from common.ids import ContentId
from tests.torture.one_process import GRACE_S, NODES, SEGMENT_BYTES, Store
from tests.torture.outcome import Outcome, quiet, scaled, scratch
from tests.torture.wholeness import PATIENCE_S, faults, repaired

ROW = 10
PROMISE = "a node that comes back old resurrects nothing and harms nothing"

ROUNDS, STEPS = 200, 8  # histories; steps before the copy is taken, and after it
SIZES = (1, 5_000, 90_000, 2 * SEGMENT_BYTES + 5)


def main(scale: float, seed: int) -> Outcome:
    """Each round is a store of its own."""
    rounds, rng = scaled(ROUNDS, scale), random.Random(seed)
    violations = list[str]()
    with scratch("old", in_memory=True) as directory, quiet():
        for number in range(rounds):
            found = asyncio.run(_one_round(directory / str(number), rng))
            violations += [f"round {number}: {fault}" for fault in found]
    return Outcome(f"{rounds} old directories, {len(violations)} violations", violations)


async def _one_round(directory: Path, rng: random.Random) -> list[str]:
    store, contents, deleted = Store(directory), dict[ContentId, bytes](), set[ContentId]()
    await store.start()
    try:
        node = store.nodes[rng.choice(NODES)]
        await _history(store, contents, deleted, rng)
        copy = directory / "copy"
        await _swap(store, node.number, node.path, copy)
        await _history(store, contents, deleted, rng)
        await _swap(store, node.number, copy, node.path)
        return await _violations(store, contents, deleted - contents.keys())
    finally:
        await store.close()


async def _swap(store: Store, number: int, source: Path, target: Path) -> None:
    """The node is stopped, and started again with one directory in the other's place."""
    await store.kill(number)
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(source, target)
    await store.restart(number)


async def _history(
    store: Store, contents: dict[ContentId, bytes], deleted: set[ContentId], rng: random.Random
) -> None:
    """Changes `contents` to what is stored then."""
    for _ in range(STEPS):
        front = rng.choice(store.fronts)
        step = rng.choice(["put", "put", "delete", "time", "compact"])
        if step == "put":
            data = rng.randbytes(rng.choice(SIZES))
            contents[(await front.put(data)).id] = data
        elif step == "delete" and contents:
            await front.metadata.unpin(id_ := rng.choice(list(contents)))
            deleted.add(id_)
            del contents[id_]
        elif step == "compact":
            held = store.nodes[rng.choice(store.up)].store
            assert held is not None
            await held.compact_once()
        else:
            await _let_go(store)


async def _let_go(store: Store) -> None:
    """What was deleted is collected, once its grace period is over."""
    await store.pass_time(GRACE_S + 1)
    for job in ("collect", "outbox"):
        await store.fronts[0].work(job)


async def _violations(
    store: Store, contents: dict[ContentId, bytes], deleted: set[ContentId]
) -> list[str]:
    found = []
    for _ in range(3):  # an orphan is listed twice, a grace period apart, and then set aside
        for id_, data in contents.items():
            if await store.fronts[1].get(id_) != data:
                found.append(f"{id_}: wrong bytes")
        await store.fronts[0].work("sweep")
        await repaired(store, 0)
        await store.pass_time(PATIENCE_S)
        await _let_go(store)
    found += [f"{id_} is back" for id_ in deleted if await _is_there(store, id_)]
    found += [fault async for fault in faults(store, contents)]
    held = sum([len(await store.nodes[number].shards()) for number in store.up])
    wanted = 9 * (await store.fronts[0].metadata.counts())["segment"]
    return found + ([f"{held} shards are held, {wanted} wanted"] if held != wanted else [])


async def _is_there(store: Store, id_: ContentId) -> bool:
    try:
        await store.fronts[1].get(id_)
    except NotFound:
        return False
    return True

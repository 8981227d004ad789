"""The metadata database is lost and an old backup takes its place, somewhere in a random history of
uploads, deletions and moves. Whatever the jobs do then: nothing is deleted on any node, an alarm is
raised, what was stored before the backup can be read, and what came after can be brought back."""

import asyncio
import random
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

from common.errors import SixfoldError
from common.ids import ContentId, ShardAddress
from coordinator.rebuild import Rebuild
from tests.torture.one_process import GRACE_S, NODES, SEGMENT_BYTES, Store
from tests.torture.outcome import Outcome, quiet, scaled, scratch

ROW = 19
PROMISE = "a database restored from an old backup deletes nothing"

ROUNDS, STEPS = 100, 6  # histories; steps before the backup, and after it
SIZES = (1, 5_000, 90_000, 2 * SEGMENT_BYTES + 5)
REST_S = 200  # so that nodes hear of the epoch, and places where something was deleted rest
JOBS = ("collect", "sweep", "repair", "scrub", "rebalance", "outbox", "rot")
Shards = set[tuple[int, ShardAddress]]


def main(scale: float, seed: int) -> Outcome:
    """Each round is a store of its own."""
    rounds, rng = scaled(ROUNDS, scale), random.Random(seed)
    violations = list[str]()
    with scratch("restored", in_memory=True) as directory, quiet():
        for number in range(rounds):
            found = asyncio.run(_one_round(directory / str(number), rng))
            violations += [f"round {number}: {fault}" for fault in found]
    return Outcome(f"{rounds} backups restored, {len(violations)} violations", violations)


async def _one_round(directory: Path, rng: random.Random) -> list[str]:
    store, contents = Store(directory), dict[ContentId, bytes]()
    await store.start()
    try:
        await _history(store, contents, rng)
        before = dict(contents)
        with closing(sqlite3.connect(store.database)) as database:
            database.execute("VACUUM INTO ?", (str(directory / "backup.db"),))
        await _history(store, contents, rng)
        await store.pass_time(REST_S)
        await _restore(store, directory / "backup.db")
        return await _violations(store, before, contents)
    finally:
        await store.close()


async def _history(store: Store, contents: dict[ContentId, bytes], rng: random.Random) -> None:
    """Changes `contents` to what is stored then."""
    for _ in range(STEPS):
        front = rng.choice(store.fronts)
        step = rng.choice(["put", "put", "delete", "move", "time"])
        if step == "put":
            data = rng.randbytes(rng.choice(SIZES))
            contents[(await front.put(data)).id] = data
        elif step == "delete" and contents:
            await front.metadata.unpin(id_ := rng.choice(list(contents)))
            del contents[id_]
        elif step == "move":
            await _move(store, rng)
        else:
            await store.pass_time(rng.choice([REST_S, 2 * GRACE_S]))
            for job in ("collect", "outbox"):
                await front.work(job)


async def _move(store: Store, rng: random.Random) -> None:
    """Nodes are drained and taken back."""
    front, numbers = store.fronts[0], rng.sample(NODES, rng.randint(1, 4))
    for number in numbers:
        await front.draining.drain(str(number), force=True, dry_run=False)
    for job in ("repair", "outbox"):
        await front.work(job)
    for number in numbers:
        await front.draining.undrain(str(number))


async def _restore(store: Store, backup: Path) -> None:
    for front in store.fronts:
        await front.close()
    for path in store.database.parent.glob("metadata.db*"):
        path.unlink()
    shutil.copy(backup, store.database)
    for front in store.fronts:
        await front.start()
    await store.pass_time(1)  # nodes report


async def _violations(
    store: Store, before: dict[ContentId, bytes], contents: dict[ContentId, bytes]
) -> list[str]:
    front, held = store.fronts[0], await _held(store)
    found = [] if await front.metadata.deletes_stopped() else ["no alarm"]
    for _ in range(3):
        for job in JOBS:
            await front.work(job)
        await store.pass_time(GRACE_S + 1)
    found += [f"{address} is gone from node-{n}" for n, address in held - await _held(store)]
    kept = {id_: data for id_, data in before.items() if id_ in contents}
    found += [f"{fault} after the jobs" for fault in await _unreadable(store, kept)]
    await Rebuild(front.metadata, front.cluster, front.reads).run()
    return found + [f"{fault} after rebuilding" for fault in await _unreadable(store, contents)]


async def _held(store: Store) -> Shards:
    return {
        (number, info.address) for number in store.up for info in await store.nodes[number].shards()
    }


async def _unreadable(store: Store, contents: dict[ContentId, bytes]) -> list[str]:
    found = []
    for id_, data in contents.items():
        try:
            if await store.fronts[1].get(id_) != data:
                found.append(f"{id_}: wrong bytes")
        except SixfoldError as error:
            found.append(f"{id_}: {error}")
    return found

"""A node's process ends, without any cleanup, at every step of writing and of starting; it is
started again, and holds what it has acknowledged, and nothing that it has deleted.

One node lives through all runs of a step: what its clients were told counts until the end.
"""

import random
import re
import signal
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path

import uvloop

from common.failpoints import ENVIRONMENT, EXIT_CODE, Point
from common.ids import ShardAddress
from common.shards import ShardRecord
from common.wire import HELLO, PROTOCOL_VERSION, FrameKind, LaneKind
from shardd.identity import Identity
from shardd.sealed_json import unseal
from tests.lane_client import Client, lane_to
from tests.server_process import server_process
from tests.stores import SECRET, make_shard
from tests.test_shardd_heartbeat import Coordinator, serving
from tests.torture.ends import Ends
from tests.torture.outcome import Outcome, quiet, scaled, scratch

ROW = 3
PROMISE = "all or nothing: no step of a node's writing or starting loses or halves anything"
ENDS = 50  # at each point
POINTS = [point for point in Point if point.startswith(("volume", "group", "index", "tail"))]
CALLS = 400  # by then every point must have come
AT_ONCE = 6
READY = re.compile(rb"ready http=\S+ data=127\.0\.0\.1:(\d+)\n")


@dataclass
class Told:
    """What clients know of each shard: whether it is there, or that they were not answered."""

    shards: dict[ShardAddress, ShardRecord] = field(default_factory=dict)
    there: set[ShardAddress] = field(default_factory=set)
    unknown: set[ShardAddress] = field(default_factory=set)
    acknowledged: int = 0


class _Gone(Exception):
    """The process has ended."""


def main(scale: float, seed: int) -> Outcome:
    wanted, killed, acknowledged, violations = scaled(ENDS, scale), 0, 0, list[str]()
    with quiet():
        for point in POINTS:
            with scratch(f"failpoints-{point}") as directory:
                told, ends = Told(), Ends(point, wanted)
                violations += uvloop.run(_lives(directory, told, point, ends, seed))
            killed += ends.came
            acknowledged += told.acknowledged
            violations += ends.missing()
    figure = (
        f"{len(POINTS)} steps, each {wanted} times: {killed} nodes killed, "
        f"{acknowledged:,} acknowledged, {len(violations)} broken"
    )
    return Outcome(figure, violations)


async def _lives(directory: Path, told: Told, point: Point, ends: Ends, seed: int) -> list[str]:
    """What was wrong."""
    violations: list[str] = []
    for number in ends.runs():
        rng = random.Random(f"{seed} {point} {number}")
        if point is Point.INDEX_UNSEALED:  # only a clean stop leaves a seal
            await _life(directory, told, None, rng)
        ended, found = await _life(directory, told, point, rng)
        ends.came += ended
        violations += [f"{point}, run {number}: {said}" for said in found]
    _, found = await _life(directory, told, None, random.Random(seed))
    return violations + [f"{point}, in the end: {said}" for said in found]


async def _life(
    directory: Path, told: Told, point: Point | None, rng: random.Random
) -> tuple[bool, list[str]]:
    """Whether the process came to the point, and what was wrong before that. Without a point it is
    stopped when all has been looked at."""
    violations: list[str] = []
    if point in (Point.TAIL_SYNCED, Point.TAIL_CUT):
        _tear_tails(directory, rng)
    count = 1 if point is Point.INDEX_UNSEALED else rng.choice((1, 1, 2, 3, 5))
    armed = f"{point}:{count}" if point else ""
    async with serving(Coordinator()) as coordinator:
        flags = ("--join", coordinator.url, "--volume-bytes", "300KiB", "--reserve", "1MiB")
        armed_by = {ENVIRONMENT: armed}
        async with server_process(
            "shardd", directory, SECRET.key, *flags, environment=armed_by
        ) as process:
            assert process.stdout is not None and process.stderr is not None
            ready = READY.fullmatch(await process.stdout.readline())
            if ready is not None:
                try:
                    await _use(directory, int(ready[1]), told, rng, violations, point is None)
                except _Gone:
                    pass
                else:
                    process.send_signal(signal.SIGKILL if point else signal.SIGTERM)
            code = await process.wait()
            if code not in (EXIT_CODE, -signal.SIGKILL, 0 if point is None else EXIT_CODE):
                violations.append(f"ended with {code}: {(await process.stderr.read())[-500:]!r}")
    return code == EXIT_CODE, violations


def _tear_tails(directory: Path, rng: random.Random) -> None:
    """The beginnings of writes that were never acknowledged."""
    for path in (directory / "data" / "volumes").glob("*.vol"):
        with path.open("ab") as file:
            file.write(rng.randbytes(rng.randrange(1, 5000)))


async def _use(
    directory: Path, port: int, told: Told, rng: random.Random, violations: list[str], last: bool
) -> None:
    """Look what is there, then append and delete. Raises _Gone."""
    reader, writer = [
        await _lane(directory, port, kind) for kind in (LaneKind.READ, LaneKind.WRITE)
    ]
    violations += [said async for said in _faults(reader, told)]
    for _ in range(0 if last else CALLS // AT_ONCE):
        await _calls(writer, told, rng)
    for client in (reader, writer):
        client.transport.close()


async def _lane(directory: Path, port: int, kind: LaneKind) -> Client:
    identity = Identity(**unseal((directory / "data" / "node.json").read_bytes()))
    said = HELLO.pack(
        PROTOCOL_VERSION, kind, identity.cluster_bytes, identity.node_bytes, bytes(32)
    )
    try:
        return (await lane_to(port, said))[0]
    except (OSError, AssertionError):
        raise _Gone from None


async def _answer(client: Client) -> tuple[int, int, bytes, bytes]:
    frame = await client.frames.get()
    if frame is None:
        raise _Gone
    return frame


async def _faults(reader: Client, told: Told) -> AsyncIterator[str]:
    """What is not as clients were told. From then on they know what they were not told."""
    for address, shard in told.shards.items():
        reader.send(FrameKind.READ, 1, address.key)
        kind, _, _, payload = await _answer(reader)
        there = kind == FrameKind.RECORD
        if kind not in (FrameKind.RECORD, FrameKind.MISSING):
            yield f"{address}: an error"
        elif there and payload != shard.payload:
            yield f"{address}: wrong bytes"
        elif address not in told.unknown and there != (address in told.there):
            yield f"{address}: {'has come back' if there else 'is lost'}"
        (told.there.add if there else told.there.discard)(address)
        told.unknown.discard(address)


async def _calls(writer: Client, told: Told, rng: random.Random) -> None:
    """Some at once: most append, some delete what was acknowledged before."""
    asked: dict[int, tuple[ShardAddress, bool]] = {}
    for request in range(1, AT_ONCE + 1):
        known = sorted(told.there - told.unknown)
        if known and rng.random() < 0.4:
            address = rng.choice(known)
            asked[request] = address, False
            writer.delete(request, address)
        else:
            shard = make_shard(rng.choice((0, 300, 5000, 70_000)), rng.randrange(1 << 40))
            told.shards[shard.address] = shard
            asked[request] = shard.address, True
            writer.append(request, shard)
        told.unknown.add(asked[request][0])
    for _ in asked:
        kind, request, _, _ = await _answer(writer)
        if kind == FrameKind.OK:
            address, there = asked[request]
            told.acknowledged += 1
            told.unknown.discard(address)
            (told.there.add if there else told.there.discard)(address)

"""The gap between the nodes and the database: the coordinator ends before or after COMMIT, or the
answer to COMMIT is lost."""

import asyncio
import random
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import count as count_up
from pathlib import Path

from common.errors import FateUnknown, NotFound, Unreadable
from common.failpoints import ENVIRONMENT, EXIT_CODE, Point, armed
from common.hashing import blake3_digest
from common.ids import ContentId
from common.units import KIB
from coordinator.write_upload import Stored
from sixfold.processes import until
from tests.torture.journal import SEGMENT_BYTES, Content, Journal, Recorder, State
from tests.torture.journal import session as session_of
from tests.torture.model_contents import shards_in
from tests.torture.one_process import Front, Store
from tests.torture.outcome import Outcome, quiet, scaled, scratch
from tests.torture.servers import COORDINATOR, DEADLINE_S, Servers, node_names, running

ROW = 4
PROMISE = "whatever happens around COMMIT, nothing is lost and nothing is there twice"
RUNS = 500
NODES = 3
AT_ONCE = 8  # uploads, many of which share a transaction
SIZES = (1 * KIB, 20 * KIB, 400 * KIB)  # the last is two segments
OPTIONS = ("--segment-bytes", str(SEGMENT_BYTES), "--straggler-s", "0.2")


def main(scale: float, seed: int) -> Outcome:
    """Half of the runs end the process, half lose the answer."""
    runs = scaled(RUNS, scale, 4)
    with scratch("commit") as directory:
        killed = asyncio.run(_kill(directory / "killed", runs // 2, seed))
        with quiet():
            dropped = asyncio.run(_drop(directory / "dropped", runs - runs // 2, seed))
    violations = [*killed.violations, *dropped.violations]
    lost = sum(one.lost for one in (killed, dropped))
    return Outcome(
        f"{runs} runs, {killed.ended} ended before or after COMMIT, {dropped.ended} answers to it "
        f"lost: {lost} lost, {len(violations) - lost} doubled",
        violations,
    )


@dataclass
class _Count:
    ended: int = 0
    lost: int = 0
    violations: list[str] = field(default_factory=list)

    def add_lost(self, violations: list[str]) -> None:
        self.lost += len(violations)
        self.violations += violations


# The process ends


async def _kill(directory: Path, runs: int, seed: int) -> _Count:
    chance, count = random.Random(seed), _Count()
    async with running(directory, NODES, OPTIONS) as servers, session_of(servers.url) as http:
        recorder = Recorder(http, Journal(directory / "journal.jsonl"))
        for run in range(runs):
            point = chance.choice([Point.UPLOAD_COMMIT_BEGUN, Point.UPLOAD_COMMITTED])
            contents = [Content(run * AT_ONCE + i, chance.choice(SIZES)) for i in range(AT_ONCE)]
            servers.kill(COORDINATOR)
            await servers.start(COORDINATOR, {ENVIRONMENT: f"{point}:{chance.randint(1, 3)}"})
            await servers.until_active(node_names(NODES))
            count.ended += await _put_until_it_ends(servers, recorder, contents)
        servers.kill(COORDINATOR)
        await servers.start(COORDINATOR)
        await servers.until_active(node_names(NODES))
        await recorder.check_all()
        count.violations += await _put_again(recorder)
        await recorder.check_all("when all was put again")
        count.add_lost(recorder.violations)
    return count


async def _put_until_it_ends(servers: Servers, recorder: Recorder, contents: list[Content]) -> bool:
    """Whether it came to the failpoint, and ended there."""
    statuses = await asyncio.gather(*map(recorder.put, contents))
    if 0 not in statuses:
        return False
    assert await until(lambda: not servers.runs(COORDINATOR), DEADLINE_S)
    assert servers.ended_with(COORDINATOR) == EXIT_CODE
    return True


async def _put_again(recorder: Recorder) -> list[str]:
    """Whoever got no answer puts once more: it is stored then, and not a second time if it was
    before. What is wrong with that."""
    wrong = []
    for content in list(recorder.journal.in_state(State.UNKNOWN)):
        wanted = 200 if await recorder.is_there(content) else 201
        if (status := await recorder.put(content)) != wanted:
            wrong.append(f"{content}: put again with {status}, not {wanted}")
    return wrong


# The answer is lost


async def _drop(directory: Path, runs: int, seed: int) -> _Count:
    """In one process. First the answers of what took effect: then no shard may be left that
    nothing refers to. What did not take effect leaves some, for the sweep."""
    chance, count, store = random.Random(seed), _Count(), Store(directory)
    await store.start()
    try:
        for run in range(runs):
            point = Point.UPLOAD_COMMITTED if run < runs // 2 else Point.UPLOAD_COMMIT_BEGUN
            numbers = range(run * AT_ONCE, (run + 1) * AT_ONCE)
            contents = [Content(number, chance.choice(SIZES)).data for number in numbers]
            with _lost_answer(point, chance.randint(1, 2)) as loss:
                outcomes = await _put_all(store.fronts[0], contents)
            count.ended += loss.happened
            await _check_and_put_again(
                store, dict(zip(contents, outcomes, strict=True)), loss, count
            )
            if point is Point.UPLOAD_COMMITTED:
                count.violations += await _leftovers(store)
    finally:
        await store.close()
    return count


@dataclass
class _Loss:
    """Of the answer to the COMMIT of a transaction with uploads."""

    point: Point
    happened: bool = False


@contextmanager
def _lost_answer(point: Point, at: int) -> Iterator[_Loss]:
    """That of the transaction of this number, before it took effect or after."""
    loss, numbers = _Loss(point), count_up(1)

    def lose() -> None:
        if next(numbers) == at:
            loss.happened = True
            raise FateUnknown("the answer to COMMIT was lost")

    with armed(point, lose):
        yield loss


async def _put_all(front: Front, contents: list[bytes]) -> list[Stored | FateUnknown]:
    async def put(data: bytes) -> Stored | FateUnknown:
        try:
            return await front.put(data)
        except FateUnknown as error:
            return error

    outcomes = await asyncio.gather(*map(put, contents))
    await front.settle()
    return outcomes


async def _check_and_put_again(
    store: Store, outcomes: dict[bytes, Stored | FateUnknown], loss: _Loss, count: _Count
) -> None:
    """Everybody puts again, answered or not; then the outbox has its turn."""
    front = store.fronts[0]
    for data, outcome in outcomes.items():
        there = await _is_there(front, data, count)
        must = loss.point is Point.UPLOAD_COMMITTED or isinstance(outcome, Stored)
        if must and not there:
            count.add_lost([f"put with {outcome}, and it is not there"])
        again = await front.put(data)
        if again.new is there:
            count.violations.append(f"{again.id} was there: {there}, and is new: {again.new}")
    await store.pass_time(1)
    await front.work("outbox")
    for data in outcomes:
        if not await _is_there(front, data, count):
            count.add_lost(["put again, and it is not there when the outbox was worked through"])


async def _is_there(front: Front, data: bytes, count: _Count) -> bool:
    try:
        found = await front.get(ContentId(blake3_digest(data)))
    except NotFound:
        return False
    except Unreadable as error:
        count.add_lost([str(error)])
        return True
    if found != data:
        count.add_lost(["wrong bytes"])
    return True


async def _leftovers(store: Store) -> list[str]:
    """Shards that nothing refers to: what was stored once more than it should be."""
    referred = shards_in(store.database)
    return [
        f"node {number} holds {info.address}, which nothing refers to"
        for number, node in store.nodes.items()
        for info in await node.shards()
        if (number, info.address) not in referred
    ]

"""Networks that lose packets, one way too: nothing acknowledged is lost, nothing is acknowledged
that too few nodes have confirmed, and all is well again when the packets arrive again."""

import asyncio
import random
from dataclasses import dataclass, field
from pathlib import Path

from common.units import KIB
from coordinator.placement import survives
from tests.torture.journal import SEGMENT_BYTES, Content, Journal, Recorder, State
from tests.torture.journal import session as session_of
from tests.torture.model_contents import shards_in
from tests.torture.network import Direction, Network
from tests.torture.outcome import Outcome, scaled, scratch
from tests.torture.servers import COORDINATOR, Servers, node_names, running

ROW = 12
PROMISE = "a partition, one-way too, loses nothing and lets nothing pass without a quorum"
ROUNDS, NODES = 60, 9
K, QUORUM = 6, 8
MANY = 7  # nodes cut off: with two left nothing can be durable
PUTS = 8  # in each round
SIZES = (100, 20 * KIB, SEGMENT_BYTES + 1)


def main(scale: float, seed: int) -> Outcome:
    rounds = scaled(ROUNDS, scale, 2)
    with scratch("partition") as directory, Network(node_names(NODES)).up() as network:
        test = asyncio.run(_run(directory, network, rounds, seed))
    return Outcome(
        f"{rounds} partitions, {test.recorder.journal.acknowledged} acknowledged, "
        f"{len(test.recorder.violations)} lost, {len(test.violations)} without a quorum, "
        f"{len(test.recorder.refused)} refused",
        [*test.violations, *test.recorder.violations],
    )


@dataclass
class _Test:
    servers: Servers
    network: Network
    recorder: Recorder
    chance: random.Random
    violations: list[str] = field(default_factory=list)
    _numbers: int = 0

    async def round(self, many: bool) -> None:
        """`many`: so many that nothing may be acknowledged; else so few that something must."""
        count = MANY if many else self.chance.randint(1, 3)
        cut = self.chance.sample(node_names(NODES), count)
        direction = self.chance.choice(list(Direction))
        self.network.cut(cut, direction)
        try:
            statuses = await self.put_some()
            await self.get_some()
        finally:
            self.network.heal()
        if any(status in (200, 201) for status in statuses) is many:
            self.violations.append(f"{count} nodes cut off, {direction.name}: {statuses}")
        await self.servers.until_active(node_names(NODES))
        statuses = await self.put_some()
        if any(status != 201 for status in statuses):
            self.violations.append(f"after the partition: {statuses}")

    async def put_some(self) -> list[int]:
        numbers = range(self._numbers, self._numbers + PUTS)
        self._numbers += PUTS
        contents = [Content(number, self.chance.choice(SIZES)) for number in numbers]
        return list(await asyncio.gather(*map(self.recorder.put, contents)))

    async def get_some(self) -> None:
        present = list(self.recorder.journal.in_state(State.PRESENT))
        some = self.chance.sample(present, min(PUTS, len(present)))
        await asyncio.gather(*map(self.recorder.get, some))

    def check_quorums(self) -> None:
        """What every segment in the database was confirmed by when it was committed."""
        layouts: dict[bytes, list[int]] = {}
        for node, address in shards_in(self.servers.data(COORDINATOR) / "metadata.db"):
            layouts.setdefault(bytes(address.segment), []).append(node)
        for segment, nodes in layouts.items():
            if len(nodes) < QUORUM or survives(tuple(nodes), K) < 1:
                self.violations.append(f"segment {segment.hex()} lies on {sorted(nodes)} only")


async def _run(directory: Path, network: Network, rounds: int, seed: int) -> _Test:
    options = (
        "--host", network.host, "--allow-unauthenticated",
        "--segment-bytes", str(SEGMENT_BYTES), "--straggler-s", "0.2",
    )  # fmt: skip
    async with (
        running(directory, NODES, options, homes=network.homes) as servers,
        session_of(servers.url) as http,
    ):
        recorder = Recorder(http, Journal(directory / "journal.jsonl"))
        test = _Test(servers, network, recorder, random.Random(seed))
        for number in range(rounds):
            await test.round(many=number % 2 == 1)
            test.check_quorums()
        await recorder.check_all()
        return test

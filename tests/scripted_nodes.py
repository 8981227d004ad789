"""Stores whose every answer the test decides, and segments that lie on them."""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any, cast

from common.codec import Codec
from common.errors import (
    NodeUnreachable,
    SixfoldError,
)
from common.hashing import blake3_digest
from common.ids import SegmentId, ShardAddress
from common.shards import Encoding, ShardInfo, ShardMissing, ShardRecord
from coordinator.cluster import Cluster

K, N = 6, 9
CODEC = Codec(K, N)
Answers = list[ShardRecord | ShardMissing]


@dataclass
class Node:
    """A store that does its work only when the test has not told it otherwise."""

    held: dict[ShardAddress, ShardRecord] = field(default_factory=dict)
    error: SixfoldError | None = None
    hangs: bool = False
    answers: "list[asyncio.Future[Any]]" = field(default_factory=list)
    waiting: list[Callable[[], None]] = field(default_factory=list)

    def append(self, records: Sequence[ShardRecord]) -> "asyncio.Future[None]":
        def store() -> None:
            self.held.update((r.address, ShardRecord(r.info, bytes(r.payload))) for r in records)

        return self._answer(store)

    def read(
        self, addresses: Sequence[ShardAddress], into: Sequence[memoryview]
    ) -> "asyncio.Future[Answers]":
        def answer() -> Answers:
            records = [self.held.get(address, ShardMissing(address)) for address in addresses]
            for record, place in zip(records, into, strict=True):
                if isinstance(record, ShardRecord) and len(record.payload) == len(place):
                    place[:] = record.payload
            return records

        return self._answer(answer)

    def _answer(self, work: Callable[[], Any]) -> "asyncio.Future[Any]":
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self.answers.append(future)

        def settle() -> None:
            if not future.done():
                future.set_result(work())

        if self.error is not None:
            future.set_exception(self.error)
        elif self.hangs:
            self.waiting.append(settle)
        else:
            settle()
        return future

    @property
    def asked(self) -> int:
        return len(self.answers)

    @property
    def abandoned(self) -> int:
        return sum(answer.cancelled() for answer in self.answers)

    def go_on(self) -> None:
        self.hangs = False
        while self.waiting:
            self.waiting.pop(0)()


class Nodes:
    """As much of a Cluster as the policies use."""

    def __init__(self, count: int) -> None:
        self.by_number = {number: Node() for number in range(1, count + 1)}
        self.unreachable: set[int] = set()
        self.membership = SimpleNamespace(
            count_sent=lambda number, size: None,
            is_readable=lambda number: number not in self.unreachable,
        )

    def __getitem__(self, number: int) -> Node:
        return self.by_number[number]

    def store(self, number: int) -> Node:
        if number in self.unreachable:
            raise NodeUnreachable(f"node-{number} is away")
        return self.by_number[number]

    def node_name(self, number: int) -> str:
        return f"node-{number}"

    @property
    def cluster(self) -> Cluster:
        return cast(Cluster, self)


def records_of(data: bytes, generation: int = 1) -> list[ShardRecord]:
    id_ = SegmentId(blake3_digest(data))
    return [
        ShardRecord(
            ShardInfo(
                ShardAddress(id_, generation, index), K, N, len(data), Encoding.PLAIN,
                len(shard), blake3_digest(shard),
            ),
            bytes(shard),
        )
        for index, shard in enumerate(CODEC.encode(data))
    ]  # fmt: skip

"""What a lane knows of one request (coordinator/lanes.py)."""

import asyncio
from typing import Any

from common.ids import ShardAddress
from common.shards import Buffer


class Batch:
    """Small frames that left together; its slot is free again when all are answered."""

    __slots__ = ("unanswered",)

    def __init__(self) -> None:
        self.unanswered = 0


class Request:
    """A request that waits to be sent or answered."""

    __slots__ = (
        "address",
        "batch",
        "cost_bytes",
        "deadline_s",
        "frame",
        "future",
        "into",
        "payload",
    )

    def __init__(
        self,
        frame: bytes,
        payload: Buffer,
        future: "asyncio.Future[Any]",
        cost_bytes: int,
        address: ShardAddress | None,
        into: memoryview | None,
    ) -> None:
        self.frame, self.payload, self.future = frame, payload, future
        self.cost_bytes, self.address, self.into = cost_bytes, address, into
        self.batch: Batch | None = None
        self.deadline_s = 0.0

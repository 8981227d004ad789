"""Puts the n shards of one segment on nodes: send to all, stand in for those that fail, and
answer at the quorum.

The policy: a segment is durable enough when at least n-1 shards are durable and losing any one
node leaves k. From then on the last shard has `straggler_s` to arrive. It is *not* guaranteed
that a shard given up on is not stored all the same: its address is reported as unconfirmed, and
whoever called sees to it that it is deleted.
"""

import asyncio
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from common.errors import SixfoldError, StorageFull, Undurable
from common.failpoints import Point, failpoint
from common.ids import SegmentId, ShardAddress
from common.shards import ShardRecord
from coordinator.cluster import Cluster
from coordinator.metadata import ShardsOnNode
from coordinator.metadata.rows import NO_NODE
from coordinator.placement import Placement, is_quorum


@dataclass(frozen=True, slots=True)
class StripeResult:
    """`layout[i]` holds shard i, or is NO_NODE. `unconfirmed` may hold shards all the same."""

    layout: tuple[int, ...]
    unconfirmed: tuple[ShardsOnNode, ...]


class Written(NamedTuple):
    """What one act of writing a segment has left on nodes: shards by index, and others perhaps.
    Knows no payloads, whose memory is in other use by then."""

    segment: SegmentId
    generation: int
    durable: Mapping[int, int]
    unconfirmed: Sequence[ShardsOnNode]

    def shards(self) -> list[ShardsOnNode]:
        return [
            *(
                ShardsOnNode(node, (ShardAddress(self.segment, self.generation, index),))
                for index, node in self.durable.items()
            ),
            *self.unconfirmed,
        ]


class StripeWrite:
    """One act of writing a segment. Callbacks, not tasks: nine shards cost nine futures."""

    def __init__(
        self,
        cluster: Cluster,
        records: list[ShardRecord],
        placement: Placement,
        k: int,
        straggler_s: float,
    ) -> None:
        self._cluster, self._records, self._k = cluster, records, k
        self._layout = placement.layout
        self._spares = list(reversed(placement.spares))
        self._straggler_s = straggler_s
        self._open: dict[asyncio.Future[None], tuple[int, int]] = {}
        self._durable: dict[int, int] = {}  # shard index -> node
        self._failed: dict[int, SixfoldError] = {}  # node -> why
        self._unconfirmed: list[ShardsOnNode] = []
        self._decided: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._patience: asyncio.TimerHandle | None = None

    async def run(self) -> StripeResult:
        """Returns once it is decided, whether or not that is a quorum (see `is_quorum`)."""
        try:
            for index, node in enumerate(self._layout):
                self._send(index, node)
            self._judge()
            await self._decided
        finally:
            self._stop()
        layout = tuple(self._durable.get(i, NO_NODE) for i in range(len(self._records)))
        return StripeResult(layout, tuple(self._unconfirmed))

    @property
    def all_arrived(self) -> bool:
        """Every shard was answered: nobody looks at the payloads any more."""
        return not self._unconfirmed and len(self._durable) == len(self._records)

    def shortfall(self) -> SixfoldError | None:
        """The error for the client if what is durable does not suffice."""
        layout = self._durable.values()
        if is_quorum(layout, len(self._records), self._k):
            return None
        causes = "; ".join(
            f"{self._cluster.node_name(node)}: {error}" for node, error in self._failed.items()
        )
        full = [error for error in self._failed.values() if isinstance(error, StorageFull)]
        kind = StorageFull if full and len(full) == len(self._failed) else Undurable
        return kind(
            f"only {len(self._durable)} of {len(self._records)} shards could be stored, "
            f"on {len(set(layout))} nodes" + (f" ({causes})" if causes else "")
        )

    def written(self) -> Written:
        """All that may lie on nodes: what to delete if the upload fails."""
        segment, generation, _ = self._records[0].address
        return Written(segment, generation, self._durable, self._unconfirmed)

    def _send(self, index: int, node: int) -> None:
        try:
            store = self._cluster.store(node)
        except SixfoldError as error:
            self._stand_in(index, node, error)
            return
        future = asyncio.ensure_future(store.append([self._records[index]]))
        self._open[future] = (index, node)
        future.add_done_callback(self._answered)

    def _answered(self, future: "asyncio.Future[None]") -> None:
        place = self._open.pop(future, None)
        if place is None or future.cancelled():
            return
        index, node = place
        error = future.exception()
        if error is None:
            self._durable[index] = node
            failpoint(Point.UPLOAD_SHARD_STORED)
            self._cluster.membership.count_sent(node, len(self._records[index].payload))
        else:
            assert isinstance(error, SixfoldError), error
            self._note_unconfirmed(index, node)
            self._stand_in(index, node, error)
        self._judge()

    def _stand_in(self, index: int, node: int, error: SixfoldError) -> None:
        """Send the shard elsewhere: to a spare, else to the node with fewest shards of ours."""
        self._failed[node] = error
        while self._spares:
            spare = self._spares.pop()
            if spare not in self._failed:
                self._send(index, spare)
                return
        load = Counter(n for n in self._nodes_in_use() if n not in self._failed)
        if load:
            fewest = min(load, key=lambda number: load[number])
            if load[fewest] < len(self._records) - self._k:  # its loss must leave k
                self._send(index, fewest)

    def _nodes_in_use(self) -> list[int]:
        return [*self._durable.values(), *(node for _, node in self._open.values())]

    def _judge(self) -> None:
        if self._decided.done():
            return
        if not self._open:
            self._decided.set_result(None)
        elif (
            self._patience is None
            and len(self._durable) >= len(self._records) - 1  # else not worth looking closer
            and is_quorum(self._durable.values(), len(self._records), self._k)
        ):
            loop = asyncio.get_running_loop()
            self._patience = loop.call_later(self._straggler_s, self._decided.set_result, None)

    def _stop(self) -> None:
        if self._patience is not None:
            self._patience.cancel()
        for future, (index, node) in list(self._open.items()):
            self._note_unconfirmed(index, node)
            future.cancel()
        self._open.clear()

    def _note_unconfirmed(self, index: int, node: int) -> None:
        self._unconfirmed.append(ShardsOnNode(node, (self._records[index].address,)))

"""Gets the plain bytes of one segment from its shards: the first k good ones, hedged.

The policy: ask for the data shards that are needed; for each that is missing, bad, unreachable or
slow, ask for another shard; as soon as k good ones are there, compute what is missing. Nodes that
have been slow lately are asked last: a shard on one is computed from k others, as if the node was
away, though that is more to ask for than the range alone. Nothing is believed before it matches the
checksum in the metadata. Requests that are no longer needed are abandoned: it is
*not* guaranteed that every shard of the segment was looked at.
"""

import asyncio
from collections.abc import Sequence
from functools import partial

from common.errors import Corrupt, SixfoldError, Unreadable
from common.hashing import blake3_digest
from common.shards import ShardMissing, ShardRecord
from coordinator.latency import HedgePolicy
from coordinator.metadata import StoredSegment
from coordinator.metadata.rows import NO_NODE
from coordinator.services import Services
from coordinator.stripe_rows import Rows

Answer = ShardRecord | ShardMissing
Answers = list[Answer]


class StripeRead:
    """Gets the shards `wanted`, which are data shards, into `rows`.

    `bad` tells afterwards which shards were missing or corrupt where they should have been.
    """

    def __init__(
        self,
        services: Services,
        hedge: HedgePolicy,
        segment: StoredSegment,
        rows: Rows,
        wanted: Sequence[int],
    ) -> None:
        self._cluster, self._offload = services.cluster, services.offload
        self._hedge, self._segment, self._rows = hedge, segment, rows
        self._wanted = frozenset(wanted)
        self._open: dict[asyncio.Future[Answers], int] = {}
        self._arrived: set[int] = set()  # not verified yet
        self._good: set[int] = set()
        self._failed: dict[int, str] = {}  # shard index -> why it could not be had
        self.bad: dict[int, str] = {}
        self._avoided: set[int] = set()  # to be asked last, since their nodes are slow
        self._late: set[int] = set()  # not answered before the hedge
        self._probes: set[int] = set()  # asked though their nodes have been slow
        self._unasked = self._in_order_of_use()
        self._loop = asyncio.get_running_loop()
        self._wake: asyncio.Future[None] = self._loop.create_future()
        self._alarm: asyncio.TimerHandle | None = None

    async def run(self) -> None:
        """Raises Unreadable if fewer than k good shards can be had."""
        try:
            self._make_up()
            self._alarm = self._loop.call_later(self._hedge.delay_s, self._time_is_up)
            while not self._suffice(self._good):
                if not self._open and not self._arrived:
                    raise self._unreadable()
                await self._next_answers()
                await self._verify()
                self._make_up()
        finally:
            if self._alarm is not None:
                self._alarm.cancel()
            for future in self._open:
                future.cancel()
            self._open.clear()  # the answers that come all the same find no place
            del self._rows  # some future may know us for longer than anybody needs the memory

    def _in_order_of_use(self) -> list[int]:
        """The shards that can be asked for, the most useful last: wanted, other data, parity, and
        those on slow nodes, the slowest first, as far as there is a way around them."""
        segment, slow_nodes = self._segment, self._hedge.slow_nodes
        usable = self._usable()
        slow = [i for i in usable if segment.layout[i] in slow_nodes and not self._is_probe(i)]
        if len(self._wanted) < segment.k > len(usable) - len(slow):
            slow = [i for i in slow if i not in self._wanted]  # they would all be asked, and more
        self._avoided.update(slow)
        slow.sort(key=lambda index: -slow_nodes.misses(segment.layout[index]))
        others = [i for i in usable if i not in self._wanted and i not in self._avoided]
        wanted = [i for i in usable if i in self._wanted and i not in self._avoided]
        return slow + others + wanted

    def _usable(self) -> list[int]:
        """The shards that may be had, the last first."""
        usable, membership = list[int](), self._cluster.membership
        for index, node in reversed(list(enumerate(self._segment.layout))):
            if node == NO_NODE:
                self._failed[index] = "was never stored"
            elif not membership.is_readable(node):
                self._failed[index] = f"on {self._cluster.node_name(node)} cannot be reached"
            else:
                usable.append(index)
        return usable

    def _is_probe(self, index: int) -> bool:
        """Whether this slow node's turn has come; parity would not be asked for at once."""
        node = self._segment.layout[index]
        if index not in self._wanted or not self._hedge.slow_nodes.probe(node):
            return False
        self._probes.add(index)
        return True

    def _suffice(self, rows: set[int]) -> bool:
        return self._wanted <= rows or len(rows) >= self._segment.k

    def _make_up(self) -> None:
        """Ask for the wanted shards, and for others as soon as one of them cannot be had."""
        hoped_for = self._good | self._arrived | set(self._open.values())
        lacking = self._wanted - hoped_for
        hopeless = self._failed.keys() | self._avoided
        if lacking.isdisjoint(hopeless) and lacking <= set(self._unasked):
            self._ask(len(lacking))
        elif lacking:
            self._ask(self._segment.k - len(hoped_for))

    def _ask(self, count: int) -> None:
        """Ask for so many more shards, as far as there are any."""
        asked = 0
        while asked < count and self._unasked:
            index = self._unasked.pop()
            node = self._segment.layout[index]
            store = self._cluster.store(node)
            answer = store.read([self._segment.address(index)], [self._rows.place(index)])
            future = asyncio.ensure_future(answer)
            self._open[future] = index
            future.add_done_callback(partial(self._answered, asked_s=self._loop.time()))
            asked += 1
        self._hedge.asked(asked)

    def _answered(self, future: "asyncio.Future[Answers]", asked_s: float) -> None:
        index = self._open.pop(future, None)
        if index is None or future.cancelled():
            return
        error = future.exception()
        if isinstance(error, SixfoldError):
            self._give_up_on(index, f"cannot be had: {error}", bad=isinstance(error, Corrupt))
        elif error is not None:  # a defect: it must end the read, and be seen
            self._give_up_on(index, f"cannot be had: {error!r}", bad=False)
            if not self._wake.done():
                self._wake.set_exception(error)
        else:
            self._hedge.answered(self._loop.time() - asked_s)
            if index not in self._late:
                self._hedge.slow_nodes.in_time(self._segment.layout[index])
            self._take(index, future.result()[0])
        if not self._wake.done() and self._worth_waking():
            self._wake.set_result(None)

    def _take(self, index: int, answer: Answer) -> None:
        if isinstance(answer, ShardMissing):
            self._give_up_on(index, "is gone", bad=True)
        elif len(answer.payload) != self._segment.shard_bytes:
            self._give_up_on(index, "has the wrong length", bad=True)
        else:
            self._rows.put(index, answer.payload)
            self._arrived.add(index)

    def _give_up_on(self, index: int, reason: str, bad: bool) -> None:
        name = self._cluster.node_name(self._segment.layout[index])
        self._failed[index] = f"on {name} {reason}"
        if bad:
            self.bad[index] = reason

    def _worth_waking(self) -> bool:
        """Something can be concluded, or must be asked for."""
        return (
            not self._open
            or self._suffice(self._good | self._arrived)
            or bool(self._wanted - self._good - self._arrived - set(self._open.values()))
        )

    async def _next_answers(self) -> None:
        if self._open and not self._suffice(self._good | self._arrived):
            await self._wake
        self._wake = self._loop.create_future()

    async def _verify(self) -> None:
        """Hold what arrived against the checksums, and compute what is missing if that suffices,
        all in one hop."""
        if not self._suffice(self._good | self._arrived) and self._open:
            return
        rows, self._arrived = self._arrived, set()
        stopped = self._stop_receiving(self._wanted - self._good - rows)
        total_bytes = self._segment.shard_bytes * len(rows)
        intact = await self._offload.run(total_bytes, lambda: self._verify_and_recover(rows))
        self._good |= intact
        for row in rows - intact:
            self._give_up_on(row, "fails its checksum", bad=True)
        if not self._suffice(self._good):
            self._unasked += stopped

    def _stop_receiving(self, missing: frozenset[int]) -> list[int]:
        """These will be computed: what is still on its way for them must not land in their place,
        unverified, meanwhile or afterwards. Which of them were open."""
        stopped = [future for future, index in self._open.items() if index in missing]
        for future in stopped:
            future.cancel()
        return [self._open.pop(future) for future in stopped]

    def _verify_and_recover(self, rows: set[int]) -> set[int]:
        """Which of `rows` are intact. Runs on a thread."""
        segment = self._segment
        intact = {row for row in rows if blake3_digest(self._rows[row]) == segment.checksum(row)}
        good = self._good | intact
        missing = self._wanted - good
        if missing and len(good) >= segment.k:
            self._rows.recover(sorted(good)[: segment.k], sorted(missing))
        return intact

    def _time_is_up(self) -> None:
        """What came while the loop was busy counts as answered, so let it first see to that: one
        turn for what it has taken in, one for what is in the sockets."""
        self._loop.call_soon(self._loop.call_soon, self._hedge_slow)

    def _hedge_slow(self) -> None:
        """What is still open is slow: ask elsewhere too, within the allowance, or without one where
        a node was known to be slow. But where all others together could not stand in for it, it is
        this process or the machine that was busy."""
        wanted = self._segment.k - len(self._good) - len(self._arrived)
        if not self._open or wanted <= 0:
            return
        if wanted <= len(self._unasked):
            for index in set(self._open.values()) - self._late:
                self._hedge.slow_nodes.missed(self._segment.layout[index])
                self._late.add(index)
            known = not self._probes.isdisjoint(self._open.values())
            self._ask(wanted if known else self._hedge.take(wanted))
        self._alarm = self._loop.call_later(self._hedge.delay_s, self._time_is_up)

    def _unreadable(self) -> Unreadable:
        segment, lost = self._segment, len(self._failed)
        why = "; ".join(f"shard {index} {reason}" for index, reason in self._failed.items())
        return Unreadable(
            f"{lost} of {segment.n} shards of segment {segment.id} are missing, "
            f"{segment.k} are needed ({why})"
        )

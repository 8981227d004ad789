"""Small uploads that wait at the same moment are written together: one segment holds them all (a
bundle, common/bundle.py), one stripe, one record on each node, one transaction.

No timers: an upload that comes while no other is being written is written at once, by itself, as
its own segment. Those that come meanwhile wait until that is done, or until they fill a bundle. So
an idle store adds no delay, and a busy one bundles by itself, as it does with everything else.
"""

import asyncio
import os
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import NamedTuple

from common.bundle import (
    ENTRY_BYTES,
    HEAD_BYTES,
    SALT_BYTES,
    Part,
    bundle_bytes,
    fill_bundle,
)
from common.hashing import blake3_digest
from common.ids import ContentId, SegmentId
from common.shards import Encoding
from common.units import KIB
from coordinator.buffers import StripeBuffer
from coordinator.letting_go import let_go
from coordinator.metadata import Bundled, NewBundle, ShardsOnNode, StoredSegment
from coordinator.metadata.batching import own_copy
from coordinator.services import Services
from coordinator.write_segment import SegmentWrites

SMALL_BYTES = 16 * KIB  # what is larger has a segment of its own
BUNDLE_BYTES = 256 * KIB  # a read of one content gets a shard or two: a sixth of that each


class Small(NamedTuple):
    """A content to store, and the bundle that it is moved from, if it is not uploaded."""

    id: ContentId
    plain: memoryview
    moved_from: SegmentId | None = None

    @property
    def room_bytes(self) -> int:
        """What it takes of a bundle."""
        return ENTRY_BYTES + len(self.plain)


class Placed(NamedTuple):
    """Where it is. `new` is false if it was visible before: then it may be elsewhere."""

    segment: StoredSegment
    new: bool


@dataclass(slots=True, eq=False)
class _Waiting:
    small: Small
    turn: "asyncio.Future[Placed | None]"  # None: it is to be written by itself


@dataclass(slots=True)
class Bundler:
    """One for the process. `discard` is given what has been written in vain."""

    services: Services
    discard: Callable[[list[ShardsOnNode]], None]
    _waiting: list[_Waiting] = field(default_factory=list)
    _waiting_bytes: int = 0
    _running: int = 0
    _will_start: bool = False
    _tasks: set[asyncio.Task[None]] = field(default_factory=set)

    @asynccontextmanager
    async def turn(self, small: Small) -> AsyncIterator[Placed | None]:
        """Where the content is now, visible; or None: it is the caller's turn to write it, as a
        segment of its own, within the block. Raises what writing the bundle raised."""
        waiting = _Waiting(small, asyncio.get_running_loop().create_future())
        self._waiting.append(waiting)
        self._waiting_bytes += len(small.plain)
        self._start_soon()
        placed = None
        try:
            placed = await waiting.turn
            yield placed
        finally:
            if waiting.turn.cancelled() and waiting in self._waiting:
                self._wait([each for each in self._waiting if each is not waiting])
            elif placed is None and _is_callers(waiting.turn):
                self._one_less()

    async def move(self, contents: Sequence[Small]) -> None:
        """Into one new bundle. Raises Overloaded, Undurable, StorageFull, or what the database
        raises; then they are where they were."""
        size_bytes = bundle_bytes([len(small.plain) for small in contents])
        codec, wait_s = self.services.codec, self.services.config.write_timeout_s
        stripe_bytes = codec.n * codec.shard_bytes(size_bytes)
        with await self.services.buffers.acquire_behind(stripe_bytes, wait_s) as buffer:
            parts = _fill(buffer, contents)
            await self._store(contents, parts, buffer, lambda: range(len(contents)))

    async def settle(self) -> None:
        """Wait until what is being written is done."""
        while self._tasks:
            await asyncio.wait(self._tasks)

    def _start_soon(self) -> None:
        """At the end of this turn of the loop: what else comes in it shares the bundle."""
        if not self._will_start and self._may_start():
            self._will_start = True
            asyncio.get_running_loop().call_soon(self._start)

    def _may_start(self) -> bool:
        return not self._running or self._waiting_bytes >= BUNDLE_BYTES

    def _wait(self, waiting: list[_Waiting]) -> None:
        """These wait now."""
        self._waiting = waiting
        self._waiting_bytes = sum(len(each.small.plain) for each in waiting)

    def _start(self) -> None:
        self._will_start = False
        while self._waiting and self._may_start():
            group = self._next_group()
            if not group:
                return  # nobody waits any more
            self._running += 1
            buffer = self._buffer_for(group) if len(group) > 1 else None
            if buffer is None:
                group[0].turn.set_result(None)
                self._wait([*group[1:], *self._waiting])
            else:
                parts = _fill(buffer, [each.small for each in group])
                task = asyncio.create_task(self._write(group, parts, buffer), name="bundle")
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)

    def _one_less(self) -> None:
        self._running -= 1
        if self._waiting:
            self._start_soon()

    def _next_group(self) -> list[_Waiting]:
        """Take those that have waited longest, no two alike, as many as a bundle may hold."""
        group, left = dict[ContentId, _Waiting](), list[_Waiting]()
        room_bytes = BUNDLE_BYTES - HEAD_BYTES
        for waiting in self._waiting:
            small = waiting.small
            if waiting.turn.done():
                continue
            if small.id in group or small.room_bytes > room_bytes:
                left.append(waiting)
            else:
                room_bytes -= small.room_bytes
                group[small.id] = waiting
        self._wait(left)
        return list(group.values())

    def _buffer_for(self, group: Sequence[_Waiting]) -> StripeBuffer | None:
        """None if memory is short: what has room already can be written by itself."""
        codec = self.services.codec
        size_bytes = bundle_bytes([len(each.small.plain) for each in group])
        try:
            return self.services.buffers.try_acquire(codec.n * codec.shard_bytes(size_bytes))
        except (OSError, MemoryError):
            return None

    async def _write(
        self, group: Sequence[_Waiting], parts: Sequence[Part], buffer: StripeBuffer
    ) -> None:
        def awaited() -> list[int]:
            return [at for at, each in enumerate(group) if not each.turn.done()]

        try:
            with buffer:
                smalls = [each.small for each in group]
                placed = await self._store(smalls, parts, buffer, awaited)
            for at, place in placed.items():
                if not group[at].turn.done():
                    group[at].turn.set_result(place)
        except BaseException as error:
            let_go(error)
            for each in group:
                if not each.turn.done():
                    each.turn.set_exception(own_copy(error))
        finally:
            self._one_less()

    async def _store(
        self,
        contents: Sequence[Small],
        parts: Sequence[Part],
        buffer: StripeBuffer,
        awaited: Callable[[], Iterable[int]],
    ) -> dict[int, Placed]:
        """Of the contents in this bundle those that are `awaited` when it is stored, by their
        position: where they are."""
        done, size_bytes = SegmentWrites(self.services), parts[-1].end
        plain = buffer.memory[:size_bytes]
        try:
            digest = await self.services.offload.run(size_bytes, lambda: blake3_digest(plain))
            id_ = SegmentId(digest)
            segment = await done.write(id_, buffer, size_bytes, Encoding.BUNDLE)
            wanted = [(at, _bundled(contents[at], parts[at])) for at in awaited()]
            new = NewBundle(segment, [part for _, part in wanted], done.unconfirmed)
            visible = await done.publish(self.services.metadata.commit_bundle(new))
        except BaseException:
            self.discard(done.leftovers())
            raise
        placed = zip(wanted, visible, strict=True)
        return {at: Placed(segment, is_new) for (at, _), is_new in placed}


def _fill(buffer: StripeBuffer, contents: Iterable[Small]) -> list[Part]:
    plain = [small.plain for small in contents]
    return fill_bundle(buffer.memory, os.urandom(SALT_BYTES), plain)


def _bundled(small: Small, part: Part) -> Bundled:
    return Bundled(small.id, part.start, part.size_bytes, small.moved_from)


def _is_callers(turn: "asyncio.Future[Placed | None]") -> bool:
    """Whether it is the caller's turn to write."""
    return turn.done() and turn.exception() is None and turn.result() is None

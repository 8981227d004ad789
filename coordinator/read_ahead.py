"""The pieces of one answer in order, fetched ahead of the reader with as much memory as he is fast.

A fast reader gets whole segments, the next ones being fetched while he takes one. A slow one would
hold all that memory for as long as he takes: he gets a shard at a time, with two ahead. How fast he
is shows as he goes, so everybody begins with shards, of a first segment that was read whole: one
that is lost is an error, and not an answer that breaks off. What a slow reader has not taken yet is
given back when others wait for memory, and fetched again later.
"""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from common.units import MIB
from coordinator.buffers import StripeBuffer, StripeBuffers
from coordinator.read_segment import Slice

LATER_SEGMENT_WAIT_S = 30.0
FAST_BYTES_PER_S = 32 * MIB
# What must be taken so fast in a row before whole segments are given: sockets take some MB in an
# instant, whoever reads from them.
PROVEN_BYTES = 8 * MIB
SHARDS_AHEAD = 2  # before that
# Of shards that are smaller there is no use: a segment is little memory then.
LEAST_SHARD_BYTES = 512 * 1024


class Piece:
    """Verified bytes. `release` when the socket has taken them."""

    __slots__ = ("buffer", "data")

    def __init__(self, data: memoryview | bytes, buffer: StripeBuffer | None) -> None:
        self.data, self.buffer = data, buffer

    def release(self) -> int:
        """The memory may be used again: how many bytes that is."""
        if self.buffer is None:
            return 0
        held_bytes = len(self.buffer.memory)
        self.buffer.release()
        return held_bytes

    def abandon(self) -> None:
        """As release, while the socket may still hold the memory."""
        self.data = b""
        if self.buffer is not None:
            self.buffer.abandon()


# The slice, how long to wait for memory, and the memory if it is there already.
Fetch = Callable[[Slice, float, StripeBuffer | None], Coroutine[Any, Any, Piece]]


@dataclass(frozen=True, slots=True)
class _Ahead:
    """`held_bytes` is what it has of the memory from its beginning, until it is done."""

    part: Slice
    held_bytes: int
    fetch: asyncio.Task[Piece]


@dataclass(slots=True)
class _Rest:
    """What was not handed out yet of a piece."""

    part: Slice
    piece: Piece

    @property
    def plain(self) -> memoryview:
        size_bytes = self.part.end - self.part.start
        return memoryview(self.piece.data)[-size_bytes:]


class ReadAhead:
    """One for each answer; `close` it. `clock` counts seconds."""

    def __init__(
        self,
        slices: Sequence[Slice],
        fetch: Fetch,
        buffers: StripeBuffers,
        segments_in_flight: int,
        clock: Callable[[], float],
    ) -> None:
        self._waiting, self._ahead = deque(slices), deque[_Ahead]()
        self._fetch, self._buffers, self._clock = fetch, buffers, clock
        self._segments_in_flight = segments_in_flight
        self._rest: _Rest | None = None
        self._is_wanted = False  # the next piece, now
        self._fast_bytes = 0  # taken in a row
        self._overdue_s = float("inf")  # when the piece that is out should have been taken
        buffers.givers[self] = self._give_back

    async def start(self, wait_s: float) -> None:
        """Fetch what is wanted of the first segment. Raises Unreadable, or Overloaded if there is
        no memory for it within `wait_s`."""
        if self._waiting:
            part = self._waiting.popleft()
            self._rest = _Rest(part, await self._fetch(part, wait_s, None))

    async def close(self) -> None:
        """Give back all that nobody has taken."""
        del self._buffers.givers[self]
        if self._rest is not None:
            self._rest.piece.abandon()
        ahead = [each.fetch for each in self._ahead]
        for fetch in ahead:
            fetch.cancel()
        for outcome in await asyncio.gather(*ahead, return_exceptions=True):
            if isinstance(outcome, Piece):
                outcome.release()

    async def pieces(self) -> AsyncIterator[Piece]:
        """Raises Unreadable or Overloaded for one that cannot be had."""
        while piece := await self._next():
            size_bytes = len(piece.data)
            self._overdue_s = self._clock() + size_bytes / FAST_BYTES_PER_S
            yield piece
            self._fast_bytes = 0 if self._is_overdue else self._fast_bytes + size_bytes
            self._overdue_s = float("inf")

    async def _next(self) -> Piece | None:
        self._run_ahead()
        if self._rest is not None:
            return self._next_of(self._rest)
        if not self._ahead:
            return None
        self._is_wanted = True
        try:
            piece = await self._ahead[0].fetch
        finally:
            self._is_wanted = False
        self._ahead.popleft()
        self._run_ahead()
        return piece

    def _next_of(self, rest: _Rest) -> Piece:
        """A copy of what is in one shard, so that the rest may be given back; or all of it."""
        here, behind = self._divided(rest.part)
        buffer, plain = rest.piece.buffer, rest.plain
        if behind is None or buffer is None:
            self._rest = None
            return Piece(plain, buffer)
        rest.part, plain = behind, plain[: here.end - here.start]
        copy = self._buffers.try_acquire(len(plain))
        if copy is None:  # no room for both
            while self._ahead:
                self._give_back_ahead()
            self._rest = None
            self._waiting.appendleft(behind)
            copy = self._buffers.exchange(buffer, plain)
        else:
            copy.memory[: len(plain)] = plain
        return Piece(copy.memory[: len(plain)], copy)

    def _run_ahead(self) -> None:
        """Keep a few fetches going: the next always, later ones if memory allows."""
        while self._waiting and len(self._ahead) < self._most_ahead:
            part, behind = self._divided(self._waiting.popleft())
            if behind is not None:
                self._waiting.appendleft(behind)
            wait_s = 0.0 if self._ahead else LATER_SEGMENT_WAIT_S
            buffer = self._buffers.try_acquire(part.segment.n * part.segment.shard_bytes)
            if buffer is None and self._ahead:
                self._waiting.appendleft(part)
                break
            fetch = asyncio.create_task(self._fetch(part, wait_s, buffer))
            fetch.add_done_callback(partial(_give_up, buffer))
            held_bytes = len(buffer.memory) if buffer is not None else 0
            self._ahead.append(_Ahead(part, held_bytes, fetch))

    @property
    def _is_proven(self) -> bool:
        return self._fast_bytes >= PROVEN_BYTES

    @property
    def _is_overdue(self) -> bool:
        return self._clock() > self._overdue_s

    @property
    def _most_ahead(self) -> int:
        return self._segments_in_flight - 1 if self._is_proven else SHARDS_AHEAD

    def _divided(self, part: Slice) -> tuple[Slice, Slice | None]:
        """What to fetch or hand out at a time, and what is left: all of it at once to who is fast,
        to others what is in one shard."""
        shard_bytes = part.segment.shard_bytes
        if self._is_proven or shard_bytes < LEAST_SHARD_BYTES or part.segment.all_known_bad:
            return part, None
        end = (part.start // shard_bytes + 1) * shard_bytes
        if part.end <= end:
            return part, None
        return replace(part, end=end), replace(part, start=end)

    def _give_back(self) -> int | None:
        """The piece farthest ahead: how many bytes of memory that frees, as far as it is known.
        None if there is nothing more, or the reader is fast: then he will have taken it soon."""
        if self._is_proven and not self._is_overdue:
            return None
        if len(self._ahead) > self._is_wanted:
            return self._give_back_ahead()
        if self._rest is not None:
            rest, self._rest = self._rest, None
            self._waiting.appendleft(rest.part)
            return rest.piece.release()
        return None

    def _give_back_ahead(self) -> int:
        last = self._ahead.pop()
        self._waiting.appendleft(last.part)
        if not last.fetch.done():
            last.fetch.cancel()
            return last.held_bytes
        if last.fetch.cancelled() or last.fetch.exception() is not None:
            return 0
        return last.fetch.result().release()


def _give_up(buffer: StripeBuffer | None, fetch: "asyncio.Task[Piece]") -> None:
    """A fetch that is cancelled before its first step never gets to give its buffer back."""
    if buffer is not None and fetch.cancelled():
        buffer.abandon()

"""How much is fetched ahead of a reader, in what pieces, and who may have its memory back."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from itertools import pairwise

import pytest

import coordinator.buffers
from common.errors import Overloaded, Unreadable
from common.ids import SegmentId
from common.shards import Encoding
from common.units import KIB, MIB
from coordinator.buffers import StripeBuffer, StripeBuffers
from coordinator.metadata import StoredSegment
from coordinator.read_ahead import SHARDS_AHEAD, Piece, ReadAhead
from coordinator.read_segment import Slice

K, N, SHARD = 6, 9, 2 * MIB
STRIPE, SEGMENTS, IN_FLIGHT = N * SHARD, 9, 4
FAST_S, SLOW_S = 0.001, 10.0  # for a piece
WHOLE = StoredSegment(
    SegmentId(bytes(32)), K * SHARD, Encoding.PLAIN, K, N, 1, tuple(range(1, N + 1)), bytes(32 * N)
)


class Reader:
    """Reads segments of which every byte is the segment's number, by a clock of his own."""

    def __init__(self, budget_bytes: int = 20 * STRIPE, segment: StoredSegment = WHOLE) -> None:
        self.buffers, self.now_s = StripeBuffers(budget_bytes), 0.0
        self.asked: list[Slice] = []
        self.hold = asyncio.Event()  # fetches wait for it
        self.hold.set()
        self.lost: set[int] = set()
        slices = [
            Slice(replace(segment, generation=number), 0, segment.size_bytes)
            for number in range(SEGMENTS)
        ]
        self.ahead = ReadAhead(slices, self._fetch, self.buffers, IN_FLIGHT, lambda: self.now_s)
        self.pieces = self.ahead.pieces()
        self.taken: list[tuple[int, int]] = []  # segment and size

    async def _fetch(self, part: Slice, wait_s: float, buffer: StripeBuffer | None) -> Piece:
        self.asked.append(part)
        buffer = buffer or await self.buffers.acquire(STRIPE, wait_s)
        try:
            await self.hold.wait()
            if part.segment.generation in self.lost:
                raise Unreadable("lost")
        except BaseException:
            buffer.abandon()
            raise
        size_bytes = part.end - part.start
        plain = buffer.memory[:size_bytes]
        if size_bytes < part.segment.size_bytes:
            buffer = self.buffers.exchange(buffer, plain)
        return Piece(memoryview(bytes([part.segment.generation]) * size_bytes), buffer)

    async def take(self, count: int, each_s: float) -> None:
        for _ in range(count):
            piece = await anext(self.pieces)
            self.taken.append((piece.data[0], len(piece.data)))
            self.now_s += each_s
            piece.release()

    async def rest(self) -> AsyncIterator[None]:
        async for piece in self.pieces:
            self.taken.append((piece.data[0], len(piece.data)))
            piece.release()
            yield

    def check_order(self) -> None:
        """All of it, once, in order."""
        assert all(one <= other for (one, _), (other, _) in pairwise(self.taken))
        sizes = [sum(size for segment, size in self.taken if segment == n) for n in range(SEGMENTS)]
        assert sizes == [WHOLE.size_bytes] * SEGMENTS


async def test_who_is_fast_gets_segments_after_the_first_shards() -> None:
    reader = Reader()
    await reader.ahead.start(1.0)
    async for _ in reader.rest():
        pass
    reader.check_order()
    sizes = [size for _, size in reader.taken]
    assert set(sizes[:4]) == {SHARD}
    assert sizes[-3:] == [K * SHARD] * 3
    await reader.ahead.close()
    assert reader.buffers.used_bytes == 0


async def test_several_segments_are_fetched_ahead_of_who_is_fast() -> None:
    reader = Reader()
    await reader.ahead.start(1.0)
    await reader.take(8, FAST_S)
    (await anext(reader.pieces)).release()
    await asyncio.sleep(0)
    assert reader.taken[-1][0] == 1
    assert max(part.segment.generation for part in reader.asked) == 1 + IN_FLIGHT
    await reader.ahead.close()
    assert reader.buffers.used_bytes == 0


async def test_who_is_slow_gets_shards_and_little_is_held_for_him() -> None:
    reader = Reader()
    await reader.ahead.start(1.0)
    await reader.take(K, SLOW_S)  # of the first segment
    for _ in range(K, SEGMENTS * K):
        await reader.take(1, SLOW_S)
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert reader.buffers.used_bytes <= (SHARDS_AHEAD + 1) * SHARD
    reader.check_order()
    await reader.ahead.close()


async def test_who_becomes_slow_gets_shards_again() -> None:
    reader = Reader()
    await reader.ahead.start(1.0)
    await reader.take(9, FAST_S)
    assert reader.taken[-1][1] == K * SHARD
    await reader.take(IN_FLIGHT, SLOW_S)  # what was ahead of him
    while (await anext(aiter(reader.rest()), 0)) is None:
        reader.now_s += SLOW_S
    reader.check_order()
    assert reader.taken[-1][1] == SHARD
    await reader.ahead.close()


@pytest.mark.parametrize(
    "segment",
    [
        replace(WHOLE, size_bytes=600 * KIB),
        replace(WHOLE, known_bad=(1 << N) - 1),
    ],
)
async def test_what_is_small_or_must_be_read_whole_is_not_divided(segment: StoredSegment) -> None:
    reader = Reader(segment=segment)
    await reader.ahead.start(1.0)
    await reader.take(SEGMENTS, SLOW_S)
    assert reader.taken == [(number, segment.size_bytes) for number in range(SEGMENTS)]
    await reader.ahead.close()


@pytest.mark.parametrize("arrived", [True, False])
async def test_what_is_ahead_of_who_is_slow_is_given_to_who_waits(arrived: bool) -> None:
    reader = Reader(budget_bytes=3 * STRIPE)
    await reader.ahead.start(1.0)
    if not arrived:
        reader.hold.clear()
    await reader.take(1, SLOW_S)
    await asyncio.sleep(0)
    others = [await reader.buffers.acquire(STRIPE, 5.0) for _ in range(3)]
    assert reader.buffers.used_bytes == 3 * STRIPE
    reader.hold.set()
    asking = asyncio.create_task(reader.take(1, SLOW_S))
    await asyncio.sleep(0)
    for other in others:
        other.release()
    await asking
    async for _ in reader.rest():
        pass
    reader.check_order()
    await reader.ahead.close()
    assert reader.buffers.used_bytes == 0


async def test_what_is_ahead_of_who_is_fast_stays_unless_he_stops(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(coordinator.buffers, "LOOK_AGAIN_S", 0.001)
    reader = Reader(budget_bytes=4 * STRIPE)
    await reader.ahead.start(1.0)
    await reader.take(9, FAST_S)
    piece = await anext(reader.pieces)
    await asyncio.sleep(0)
    with pytest.raises(Overloaded):
        await reader.buffers.acquire(2 * STRIPE, 0.01)
    waiting = asyncio.create_task(reader.buffers.acquire(2 * STRIPE, 5.0))
    await asyncio.sleep(0)
    reader.now_s += SLOW_S  # the piece is still out
    (await waiting).release()
    reader.taken.append((piece.data[0], len(piece.data)))
    piece.release()
    async for _ in reader.rest():
        pass
    reader.check_order()
    await reader.ahead.close()


async def test_the_piece_that_is_wanted_now_is_not_given_away() -> None:
    reader = Reader(budget_bytes=STRIPE)
    await reader.ahead.start(1.0)
    await reader.take(1, SLOW_S)
    reader.hold.clear()
    taking = asyncio.create_task(reader.take(1, SLOW_S))
    await asyncio.sleep(0)
    with pytest.raises(Overloaded):
        await reader.buffers.acquire(STRIPE, 0.01)
    assert len(reader.asked) == 2
    reader.hold.set()
    await taking
    await reader.ahead.close()


async def test_who_leaves_gives_all_of_it_back() -> None:
    for taken in (0, 1, 7):
        reader = Reader()
        await reader.ahead.start(1.0)
        await reader.take(taken, FAST_S)
        reader.hold.clear()
        await reader.ahead.close()
        await asyncio.sleep(0)
        assert (reader.buffers.used_bytes, reader.buffers.givers) == (0, {})


async def test_what_cannot_be_read_is_told_when_its_turn_comes() -> None:
    reader = Reader(budget_bytes=3 * STRIPE)
    reader.lost = {1}
    await reader.ahead.start(1.0)
    await reader.take(K, SLOW_S)
    await asyncio.sleep(0)
    (await reader.buffers.acquire(3 * STRIPE, 5.0)).release()  # it is given back, too, for a while
    with pytest.raises(Unreadable):
        await reader.take(1, SLOW_S)
    await reader.ahead.close()


async def test_nothing_is_nothing() -> None:
    buffers = StripeBuffers(STRIPE)

    async def never(part: Slice, wait_s: float, buffer: StripeBuffer | None) -> Piece:
        raise AssertionError

    ahead = ReadAhead([], never, buffers, IN_FLIGHT, lambda: 0.0)
    await ahead.start(1.0)
    assert [piece async for piece in ahead.pieces()] == []
    await ahead.close()

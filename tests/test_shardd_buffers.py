"""The pool of aligned buffers: bounded, reused, fair."""

import asyncio
import ctypes
import errno
import mmap
from functools import partial

import pytest

from common.errors import Unavailable
from common.units import KIB, MIB
from shardd import buffers
from shardd.buffers import BufferPool

SIZE = 100 * KIB
COST = 128 * KIB  # what a buffer for SIZE occupies


def test_buffers_are_aligned_and_padded() -> None:
    buffer = BufferPool(MIB).take(SIZE)
    address = ctypes.addressof(ctypes.c_char.from_buffer(buffer.view))
    assert address % 4096 == 0
    buffer.view[:] = b"\xff" * len(buffer.view)
    padded = buffer.padded(SIZE)
    assert len(padded) % 4096 == 0
    assert bytes(padded[: 128 + SIZE]) == b"\xff" * (128 + SIZE)
    assert not any(padded[128 + SIZE :])
    assert len(buffer.payload(SIZE)) == SIZE
    assert len(buffer.record(SIZE)) == 128 + SIZE


def test_a_returned_buffer_is_lent_again() -> None:
    pool = BufferPool(MIB)
    first = pool.take(SIZE)
    first.release()
    assert pool.take(SIZE - 1) is first


def test_idle_buffers_make_room_for_other_sizes() -> None:
    pool = BufferPool(MIB)
    lent = [pool.take(SIZE) for _ in range(8)]
    assert pool.exhausted
    for buffer in lent:
        buffer.release()
    assert pool.lent_bytes == 0
    large = pool.take(900 * KIB)
    assert pool._idle_bytes + pool.lent_bytes <= MIB
    large.release()


def test_lending_goes_on_when_exhausted_and_says_when_to_go_on() -> None:
    pool, called = BufferPool(2 * COST), list[str]()
    first, second = (pool.lend(SIZE, lambda: called.append("never")) for _ in range(2))
    third = pool.lend(SIZE, lambda: called.append("third"))
    fourth = pool.lend(SIZE, lambda: called.append("fourth"))
    assert [b.counted for b in (first, second, third, fourth)] == [True, True, False, False]
    fourth.release()
    assert called == ["fourth"]
    first.release()
    assert called == ["fourth", "third"]
    assert third.counted
    second.release()
    third.release()
    assert called == ["fourth", "third"]
    assert pool.lent_bytes == 0


def test_those_who_wait_never_keep_each_other_waiting() -> None:
    """As many paused as there is room for in all: the pool still comes free."""
    pool, going = BufferPool(2 * COST), list[int]()
    held = [pool.take(SIZE) for _ in range(2)]
    paused = [pool.lend(SIZE, partial(going.append, n)) for n in range(6)]
    for buffer in held:
        buffer.release()
    assert going == [0, 1]
    for buffer in paused:
        assert buffer.counted
        buffer.release()
    assert going == list(range(6))
    assert (pool.lent_bytes, pool.exhausted) == (0, False)


def test_one_buffer_may_be_larger_than_the_pool() -> None:
    pool = BufferPool(COST)
    large = pool.lend(MIB, lambda: None)
    assert large.counted
    large.release()
    assert not pool.exhausted


async def test_acquiring_waits_in_turn() -> None:
    pool, order = BufferPool(COST), list[int]()
    held = pool.take(SIZE)

    async def user(number: int) -> None:
        buffer = await pool.acquire(SIZE)
        order.append(number)
        await asyncio.sleep(0)
        assert pool.lent_bytes == COST
        buffer.release()

    async with asyncio.TaskGroup() as group:
        for number in range(5):
            group.create_task(user(number))
        await asyncio.sleep(0)
        assert order == []
        held.release()
    assert order == list(range(5))
    assert pool.lent_bytes == 0


@pytest.mark.parametrize("lent_first", [False, True])
async def test_a_cancelled_waiter_leaks_nothing(lent_first: bool) -> None:
    pool = BufferPool(COST)
    held = pool.take(SIZE)
    waiter = asyncio.create_task(pool.acquire(SIZE))
    await asyncio.sleep(0)
    if lent_first:
        held.release()
    waiter.cancel()
    await asyncio.gather(waiter, return_exceptions=True)
    if not lent_first:
        held.release()
    assert pool.lent_bytes == 0


class NoMemory:
    """The module mmap, in a shortage."""

    @staticmethod
    def mmap(*_: int) -> mmap.mmap:
        raise OSError(errno.ENOMEM, "planned")


def test_without_memory_nothing_is_lent(monkeypatch: pytest.MonkeyPatch) -> None:
    pool = BufferPool(MIB)
    monkeypatch.setattr(buffers, "mmap", NoMemory)
    with pytest.raises(Unavailable):
        pool.take(SIZE)
    with pytest.raises(Unavailable):
        pool.lend(SIZE, lambda: None)
    assert pool.lent_bytes == 0


async def test_a_shortage_of_memory_costs_nobody_who_comes_after(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Whoever gives a buffer back hears nothing of it: another's turn is not his."""
    pool = BufferPool(3 * COST)
    held = [pool.take(SIZE) for _ in range(3)]
    waiting = [asyncio.create_task(pool.acquire(2 * SIZE)) for _ in range(2)]
    given_up = asyncio.create_task(pool.acquire(2 * SIZE))
    await asyncio.sleep(0)
    monkeypatch.setattr(buffers, "mmap", NoMemory)
    for buffer in held:
        buffer.release()
    given_up.cancel()
    for task in waiting:
        with pytest.raises(Unavailable):
            await task
    with pytest.raises(asyncio.CancelledError):
        await given_up
    monkeypatch.undo()
    (await pool.acquire(2 * SIZE)).release()
    assert (pool.lent_bytes, pool.exhausted) == (0, False)


async def test_room_is_awaited() -> None:
    pool = BufferPool(COST)
    await pool.room()
    held = pool.take(SIZE)
    waiting = asyncio.create_task(pool.room())
    await asyncio.sleep(0)
    assert not waiting.done()
    held.release()
    await waiting

"""The memory budget of transfers."""

import asyncio
import errno
import mmap
from collections.abc import Awaitable, Callable
from typing import NoReturn

import pytest

import coordinator.buffers
from common.errors import Overloaded
from common.units import KIB, MIB
from coordinator.buffers import StripeBuffer, StripeBuffers

LONG_S, SHORT_S = 30.0, 0.001


async def test_memory_is_used_again() -> None:
    buffers = StripeBuffers(20 * MIB)
    first = await buffers.acquire(9 * MIB, LONG_S)
    first.memory[0] = 7
    first.release()
    again = await buffers.acquire(9 * MIB, LONG_S)
    assert again.memory[0] == 7
    assert len(again.memory) >= 9 * MIB


async def test_abandoned_memory_is_not_used_again() -> None:
    buffers = StripeBuffers(20 * MIB)
    first = await buffers.acquire(9 * MIB, LONG_S)
    view = first.memory
    first.abandon()
    again = await buffers.acquire(9 * MIB, LONG_S)
    again.memory[0] = 9
    assert view[0] == 0


@pytest.mark.parametrize("size_bytes", [1, 100 * KIB, 9 * MIB])
async def test_abandoned_memory_counts_until_the_last_view_of_it_goes(size_bytes: int) -> None:
    buffers = StripeBuffers(10 * MIB)
    first = await buffers.acquire(size_bytes, LONG_S)
    view = first.memory[:1]
    first.abandon()
    await asyncio.sleep(0)
    assert buffers.used_bytes >= size_bytes
    waiting = asyncio.create_task(buffers.acquire(10 * MIB, LONG_S))
    await asyncio.sleep(0)
    await asyncio.to_thread(view.release)
    await waiting
    assert buffers.used_bytes == 10 * MIB


async def test_who_waits_gets_what_is_garbage() -> None:
    buffers = StripeBuffers(10 * MIB)
    first = await buffers.acquire(9 * MIB, LONG_S)
    cycle: list[object] = [first.memory]
    cycle.append(cycle)
    first.abandon()
    del cycle
    await buffers.acquire(9 * MIB, LONG_S)
    assert buffers.used_bytes == 9 * MIB


async def test_abandoned_memory_that_nobody_views_is_free_at_once() -> None:
    buffers = StripeBuffers(10 * MIB)
    (await buffers.acquire(9 * MIB, LONG_S)).abandon()
    (await buffers.acquire(9 * MIB, LONG_S)).abandon()
    await asyncio.sleep(0)
    assert buffers.used_bytes == 0


async def test_a_failed_block_does_not_pool_its_memory() -> None:
    buffers = StripeBuffers(20 * MIB)
    with pytest.raises(ZeroDivisionError), await buffers.acquire(9 * MIB, LONG_S) as buffer:
        view = buffer.memory
        raise ZeroDivisionError
    (await buffers.acquire(9 * MIB, LONG_S)).memory[0] = 1
    assert view[0] == 0


async def test_over_budget_is_refused_after_the_wait() -> None:
    buffers = StripeBuffers(10 * MIB)
    held = await buffers.acquire(9 * MIB, LONG_S)
    with pytest.raises(Overloaded):
        await buffers.acquire(2 * MIB, SHORT_S)
    assert buffers.try_acquire(2 * MIB) is None
    held.release()
    assert buffers.used_bytes == 0
    assert buffers.try_acquire(1 * MIB) is not None


async def test_waiters_are_served_in_order_and_count_once() -> None:
    buffers = StripeBuffers(10 * MIB)
    held = await buffers.acquire(10 * MIB, LONG_S)
    order: list[int] = []

    async def wait(number: int, size_bytes: int) -> None:
        buffer = await buffers.acquire(size_bytes, LONG_S)
        order.append(number)
        buffer.release()

    async with asyncio.TaskGroup() as group:
        for number, size_bytes in enumerate((9 * MIB, 1 * MIB, 5 * MIB)):
            group.create_task(wait(number, size_bytes))
        await asyncio.sleep(0)
        held.release()
    assert order == [0, 1, 2]
    assert buffers.used_bytes == 0


async def test_a_waiter_that_leaves_gives_its_turn_on() -> None:
    buffers = StripeBuffers(10 * MIB)
    held = await buffers.acquire(10 * MIB, LONG_S)
    gone = asyncio.create_task(buffers.acquire(10 * MIB, LONG_S))
    stays = asyncio.create_task(buffers.acquire(2 * MIB, LONG_S))
    await asyncio.sleep(0)
    held.release()  # the turn is `gone`'s, who leaves in the same moment
    gone.cancel()
    with pytest.raises(asyncio.CancelledError):
        await gone
    (await stays).release()
    assert buffers.used_bytes == 0


async def test_idle_memory_of_other_sizes_makes_room() -> None:
    buffers = StripeBuffers(20 * MIB)
    small = [await buffers.acquire(1 * MIB, LONG_S) for _ in range(16)]
    for buffer in small:
        buffer.release()
    large = await buffers.acquire(16 * MIB, LONG_S)
    assert buffers.held_bytes <= 20 * MIB
    large.release()


async def test_releasing_twice_is_harmless() -> None:
    buffers = StripeBuffers(20 * MIB)
    buffer = await buffers.acquire(1 * MIB, LONG_S)
    buffer.release()
    buffer.release()
    buffer.abandon()
    assert buffers.used_bytes == 0


async def test_small_requests_pass_large_ones_that_fill_the_budget() -> None:
    buffers = StripeBuffers(20 * MIB)
    held = [await buffers.acquire(9 * MIB, LONG_S) for _ in range(2)]
    waiting = asyncio.create_task(buffers.acquire(9 * MIB, LONG_S))
    await asyncio.sleep(0)
    small = await buffers.acquire(100 * KIB, SHORT_S)
    small.release()
    for buffer in held:
        buffer.release()
    (await waiting).release()
    assert buffers.used_bytes == 0


async def late(size_bytes: int, patience_s: float) -> list[str]:
    """Who gets the memory first: work that can wait, or a transfer that came after it."""
    buffers, order = StripeBuffers(10 * MIB), list[str]()
    first = await buffers.acquire(9 * MIB, LONG_S)

    async def wait(name: str, acquire: Callable[[int, float], Awaitable[StripeBuffer]]) -> None:
        with await acquire(size_bytes, LONG_S):
            order.append(name)

    async with asyncio.TaskGroup() as group:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(coordinator.buffers, "GIVE_WAY_S", patience_s)
            group.create_task(wait("can wait", buffers.acquire_behind))
            await asyncio.sleep(0)
        group.create_task(wait("transfer", buffers.acquire))
        await asyncio.sleep(0)
        first.release()
    return order


async def test_what_can_wait_gives_way_to_what_came_later_but_not_for_ever() -> None:
    assert await late(9 * MIB, LONG_S) == ["transfer", "can wait"]
    assert await late(9 * MIB, 0.0) == ["can wait", "transfer"]


async def test_room_counts_like_a_buffer_of_that_size_for_as_long_as_it_is_used() -> None:
    buffers = StripeBuffers(10 * MIB)
    async with buffers.room(9 * MIB, LONG_S):
        assert buffers.used_bytes >= 9 * MIB
        with pytest.raises(Overloaded):
            async with buffers.room(2 * MIB, SHORT_S):
                pytest.fail("there is no room")
    assert buffers.used_bytes == 0
    with pytest.raises(ZeroDivisionError):
        async with buffers.room(9 * MIB, LONG_S):
            raise ZeroDivisionError
    assert buffers.used_bytes == 0
    assert buffers.held_bytes == 0  # none was made


async def test_who_waits_for_room_is_counted_once() -> None:
    buffers = StripeBuffers(10 * MIB)
    held = await buffers.acquire(9 * MIB, LONG_S)

    async def take_room() -> int:
        async with buffers.room(8 * MIB, LONG_S):
            return buffers.used_bytes

    waiting = asyncio.create_task(take_room())
    await asyncio.sleep(0)
    held.release()
    assert await waiting == 8 * MIB
    assert buffers.used_bytes == 0


async def test_memory_that_the_system_refuses_does_not_count(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(_fileno: int, _size_bytes: int) -> NoReturn:
        raise OSError(errno.ENOMEM, "no memory")

    buffers = StripeBuffers(20 * MIB)
    monkeypatch.setattr(mmap, "mmap", refuse)
    with pytest.raises(OSError, match="no memory"):
        await buffers.acquire(9 * MIB, LONG_S)
    with pytest.raises(OSError, match="no memory"):
        buffers.try_acquire(9 * MIB)
    assert buffers.used_bytes == 0

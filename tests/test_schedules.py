"""The scheduler of the tests: every order comes about, and the same again with the same seed."""

import asyncio
import random

import pytest

from tests.schedules import Gates


async def orders(seed: int) -> str:
    """Two actors of two steps each."""
    gates = Gates(random.Random(seed), lambda step: None)

    async def nothing() -> None:
        pass

    async def act(name: str) -> None:
        await gates.call(name, nothing)
        await asyncio.gather(gates.call(name, nothing))

    await gates.run(act("a"), act("b"))
    return "".join(gates.done)


async def test_every_order_comes_about() -> None:
    found = {await orders(seed) for seed in range(200)}
    assert found == {"aabb", "abab", "abba", "baab", "baba", "bbaa"}


async def test_a_seed_gives_the_same_order_again() -> None:
    assert [await orders(seed) for seed in range(20)] == [await orders(s) for s in range(20)]


async def test_what_a_step_raises_its_caller_gets() -> None:
    gates = Gates(random.Random(1), lambda step: None)

    async def fail() -> None:
        raise OSError("planned")

    async def act() -> None:
        with pytest.raises(OSError, match="planned"):
            await gates.call("fail", fail)

    await gates.run(act())
    assert gates.done == ["fail"]


async def test_a_call_that_nobody_waits_for_any_more_is_done_all_the_same() -> None:
    gates, done = Gates(random.Random(1), lambda step: None), list[str]()

    async def note() -> None:
        done.append("sent")

    async def act() -> None:
        gates.call("note", note).cancel()

    await gates.run(act())
    assert done == ["sent"]


async def test_an_actor_that_waits_for_something_else_is_found_out() -> None:
    gates = Gates(random.Random(1), lambda step: None)

    async def stuck() -> None:
        await asyncio.Event().wait()

    with pytest.raises(AssertionError, match="nobody can go on"):
        await gates.run(stuck())

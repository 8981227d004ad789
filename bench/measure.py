"""Times calls that several clients make at once."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from statistics import median

from bench.rows import Row

Call = Callable[[], Awaitable[object]]
Costs = dict[str, float]  # microseconds per call, by what was called


async def cost_us(clients: int, calls: Sequence[Call]) -> float:
    """Microseconds per call, when so many clients make them one after another."""
    waiting = iter(calls)

    async def client() -> None:
        for call in waiting:
            await call()

    started_s = time.perf_counter()
    await asyncio.gather(*(client() for _ in range(clients)))
    return (time.perf_counter() - started_s) / len(calls) * 1e6


def compared(part: str, empty: Sequence[Costs], full: Sequence[Costs]) -> list[Row]:
    """Each cost on a full store held against that on an empty one, median against median."""
    return [
        Row.of(
            f"{part}: {name}", "µs", [run[name] for run in full], median(run[name] for run in empty)
        )
        for name in full[0]
    ]

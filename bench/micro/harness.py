"""How a piece is measured: as often as fills a round, several rounds, the median."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Generator
from dataclasses import dataclass
from pathlib import Path

from bench.rows import ROUNDS, Row, measure

ROUND_S = 0.13
_LEAST_PART = 1 / 8  # of a round: what is shorter says too little about how often one fits
_MOST_GROWTH = 100
# By how much a figure in seconds, or per second, is multiplied.
_TIMES = {"µs": 1e6, "ms": 1e3}
_RATES = {"GB/s": 1e-9, "frames/s": 1.0, "ops/s": 1.0}
UNITS = frozenset(_TIMES | _RATES)

Work = Callable[[int], object]  # does it so many times
Clock = Callable[[], float]


@dataclass(frozen=True, slots=True)
class Piece:
    """`work` done once is `amount` of what its unit counts: bytes, frames, operations. `floor` is
    the least that any program must do for the same amount."""

    name: str
    unit: str
    work: Work
    amount: int = 1
    floor: Work | None = None


@dataclass(frozen=True, slots=True)
class Stage:
    """Where pieces run: the event loop of those that need one, and an empty directory."""

    runner: asyncio.Runner
    directory: Path


Pieces = Generator[Piece, None, None]  # each is measured before the next is made
Group = Callable[[Stage], Pieces]


@dataclass(frozen=True, slots=True)
class Harness:
    """`round_s` is what a round takes, about; `clock` counts seconds."""

    rounds: int = ROUNDS
    round_s: float = ROUND_S
    clock: Clock = time.perf_counter

    def row(self, piece: Piece) -> Row:
        """The piece's figure, beside that of its floor."""
        floor_round = self._round(piece, piece.floor) if piece.floor else None
        work_round = self._round(piece, piece.work)
        return measure(piece.name, piece.unit, work_round, floor_round, self.rounds)

    def _round(self, piece: Piece, work: Work) -> Callable[[], float]:
        times = self._times(work)
        return lambda: figure(piece.unit, self._elapsed_s(work, times), times * piece.amount)

    def _times(self, work: Work) -> int:
        """How often fills a round; what finds it out also warms up."""
        times = 1
        while (elapsed_s := self._elapsed_s(work, times)) < _LEAST_PART * self.round_s:
            times *= max(2, min(_MOST_GROWTH, int(self.round_s / 4 / elapsed_s)))
        return max(1, round(times * self.round_s / elapsed_s))

    def _elapsed_s(self, work: Work, times: int) -> float:
        start_s = self.clock()
        work(times)
        return max(self.clock() - start_s, 1e-9)


def figure(unit: str, elapsed_s: float, amount: int) -> float:
    """What `amount` in `elapsed_s` is in `unit`: time for one, or how many in a second."""
    if unit in _TIMES:
        return elapsed_s / amount * _TIMES[unit]
    return amount / elapsed_s * _RATES[unit]


def repeated(call: Callable[[], object]) -> Work:
    """That call again and again."""

    def work(times: int) -> None:
        for _ in range(times):
            call()

    return work


def awaited(stage: Stage, call: Callable[[], Awaitable[object]], at_once: int = 1) -> Work:
    """`at_once` tasks that each await that call again and again."""

    async def one_task(times: int) -> None:
        for _ in range(times):
            await call()

    async def all_tasks(times: int) -> None:
        async with asyncio.TaskGroup() as tasks:
            for _ in range(at_once):
                tasks.create_task(one_task(times))

    if at_once == 1:
        return lambda times: stage.runner.run(one_task(times))
    return lambda times: stage.runner.run(all_tasks(times))

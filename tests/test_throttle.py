"""Background work keeps to its rate."""

import pytest

from coordinator.throttle import Throttle


class Sleeper:
    """A clock that only sleeping moves on."""

    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s

    async def sleep(self, seconds: float) -> None:
        self.now_s += seconds


async def test_the_rate_is_kept_whatever_the_pieces() -> None:
    sleeper = Sleeper()
    throttle = Throttle(1000, sleeper, sleeper.sleep)
    for size_bytes in (1, 499, 1500, 0, 3000):
        await throttle.spend(size_bytes)
    assert sleeper.now_s == pytest.approx(105.0)


async def test_a_pause_earns_nothing() -> None:
    sleeper = Sleeper()
    throttle = Throttle(1000, sleeper, sleeper.sleep)
    sleeper.now_s += 3600
    await throttle.spend(2000)
    assert sleeper.now_s == pytest.approx(3702.0)

"""The quick form of `make torture-clocks`, and whether it would see a clock that is believed."""

from unittest.mock import patch

from shardd.clock import NodeClock
from shardd.scrub import Scrubber
from tests.torture import clocks
from tests.torture.clocks import Skewed


def test_clocks_that_are_days_wrong_end_nothing_early() -> None:
    clocks.main(scale=0.005, seed=1).check()


def test_a_clock_that_people_can_set_is_found_out() -> None:
    with patch.object(Skewed, "__call__", Skewed.wall):
        outcome = clocks.main(scale=0.005, seed=1)
    assert any("early" in violation for violation in outcome.violations)
    assert any("left" in violation for violation in outcome.violations)


def test_a_node_that_believes_the_time_of_day_is_found_out() -> None:
    with patch.object(NodeClock, "__call__", lambda self: self._clocks.wall_s()):
        outcome = clocks.main(scale=0.01, seed=1)
    assert any("early" in violation for violation in outcome.violations)
    assert any("stay" in violation for violation in outcome.violations)


def test_a_scrub_that_waits_for_a_wrong_time_is_found_out() -> None:
    def is_due(self: Scrubber) -> bool:
        began_s = self._state.started_at
        return not self._state.running and self._now() >= began_s + self._interval_s

    with patch.object(Scrubber, "_is_due", is_due):
        outcome = clocks.main(scale=0.01, seed=1)
    assert any("late" in violation for violation in outcome.violations)

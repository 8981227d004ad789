"""The quick form of `make torture-clocks`, and whether it would see a clock that is believed."""

from unittest.mock import patch

from tests.torture import clocks
from tests.torture.clocks import Skewed


def test_clocks_that_are_days_wrong_end_nothing_early() -> None:
    clocks.main(scale=0.005, seed=1).check()


def test_a_clock_that_people_can_set_is_found_out() -> None:
    with patch.object(Skewed, "__call__", Skewed.wall):
        outcome = clocks.main(scale=0.005, seed=1)
    assert any("early" in violation for violation in outcome.violations)
    assert any("left" in violation for violation in outcome.violations)

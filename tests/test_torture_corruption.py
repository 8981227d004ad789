"""A few hundred of the corruptions of the long test, and whether it would see a wrong byte."""

from typing import Any
from unittest.mock import patch

from coordinator.read_stripe import StripeRead
from tests.torture import corruption


def test_a_few_hundred_corruptions() -> None:
    corruption.main(scale=0.05, seed=6).check()


def test_a_reader_that_believes_everything_is_found_out() -> None:
    def believe(self: Any, rows: set[int]) -> set[int]:
        return rows

    with patch.object(StripeRead, "_verify_and_recover", believe):
        outcome = corruption.main(scale=0.01, seed=6)
    assert any("wrong bytes" in violation for violation in outcome.violations)

"""The quick form of `make torture-swap`."""

import pytest

from tests.torture import swap
from tests.torture.outcome import CannotRun


def test_a_disk_in_the_wrong_place_takes_no_writes() -> None:
    try:
        outcome = swap.main(scale=0.01, seed=1)
    except CannotRun as reason:
        pytest.skip(str(reason))
    outcome.check()

"""The quick form of `make torture-full`."""

import pytest

from tests.torture import full
from tests.torture.outcome import CannotRun


def test_full_disks_refuse_and_let_go() -> None:
    try:
        outcome = full.main(scale=0.01, seed=1)
    except CannotRun as reason:
        pytest.skip(str(reason))
    outcome.check()

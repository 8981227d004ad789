"""The quick form of `make torture-partition`. It makes network namespaces: where the machine does
not let us, it is skipped, with what the machine said."""

import pytest

from tests.torture import partition
from tests.torture.outcome import CannotRun


def test_a_partition_loses_nothing() -> None:
    try:
        outcome = partition.main(scale=0.01, seed=1)
    except CannotRun as reason:
        pytest.skip(str(reason))
    outcome.check()

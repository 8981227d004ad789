"""The quick form of `make torture-comeback`, and whether it would see what comes back."""

from unittest.mock import patch

from coordinator.sweep import SweepWorker
from tests.torture import comeback


def test_a_node_that_comes_back_old_resurrects_nothing() -> None:
    comeback.main(scale=0.01, seed=1).check()


def test_a_sweep_that_sees_nothing_is_found_out() -> None:
    async def nothing(self: SweepWorker) -> bool:
        return False

    with patch.object(SweepWorker, "step", nothing):
        outcome = comeback.main(scale=0.01, seed=1)
    assert any("shards are held" in violation for violation in outcome.violations)

"""The quick form of `make torture-crashes`."""

from tests.torture import crashes


def test_a_power_loss_or_kill_at_any_step_loses_nothing() -> None:
    crashes.main(scale=0.01, seed=1).check()

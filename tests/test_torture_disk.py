"""The quick form of `make torture-disk`."""

from tests.torture import disk


def test_a_disk_that_fails_once_costs_nothing_acknowledged() -> None:
    disk.main(scale=0.02, seed=1).check()

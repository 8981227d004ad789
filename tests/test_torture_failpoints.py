"""The quick form of `make torture-failpoints`."""

from tests.torture import failpoints


def test_no_step_of_a_node_loses_or_halves_anything() -> None:
    failpoints.main(scale=0.04, seed=1).check()

"""The quick form of `make torture-rot`."""

from tests.torture import rot


def test_a_node_that_has_rotted_serves_nothing_wrong() -> None:
    rot.main(scale=0.03, seed=1).check()

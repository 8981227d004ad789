"""The quick form of row 10."""

from tests.torture import old


def test_a_node_that_comes_back_old_resurrects_nothing() -> None:
    old.main(0.03, 1).check()

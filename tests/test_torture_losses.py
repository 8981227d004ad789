"""The quick form of tests/torture/losses.py."""

from tests.torture import losses


def test_what_real_nodes_lose_comes_back() -> None:
    losses.main(0.02, seed=1).check()

"""The quick form of `make torture-commit`."""

from tests.torture import commit


def test_nothing_is_lost_or_doubled_around_a_commit() -> None:
    commit.main(scale=0.03, seed=2).check()

"""The quick form of `make torture-durability`."""

from tests.torture import durability


def test_durability_is_told_as_it_is() -> None:
    durability.main(scale=0.003, seed=1).check()

"""The quick form of `make torture-kills`."""

from tests.torture import kills


def test_what_is_acknowledged_outlives_kills() -> None:
    kills.main(scale=0.015, seed=1).check()

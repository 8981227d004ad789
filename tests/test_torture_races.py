"""The quick form of tests/torture/races.py."""

from tests.torture import races


def test_quick_form() -> None:
    races.main(0.02, seed=1).check()

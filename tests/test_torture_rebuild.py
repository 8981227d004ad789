"""The quick form of tests/torture/rebuild.py."""

from tests.torture import rebuild


def test_quick_form() -> None:
    rebuild.main(0.02, seed=1).check()

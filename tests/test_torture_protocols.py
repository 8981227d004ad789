"""The quick form of row 3, as far as coordinators are concerned."""

from tests.torture import protocols


def test_no_step_leaves_anything_half_done() -> None:
    protocols.main(0.02, 42).check()

"""A short form of the long test of compaction's steps."""

from unittest.mock import patch

from common.failpoints import Point
from tests.torture import compaction, ends


def test_a_node_ends_once_at_each_step() -> None:
    compaction.main(scale=0.02, seed=5).check()


def test_a_step_that_never_comes_is_found_out() -> None:
    points = patch.object(compaction, "POINTS", [Point.SWEEP_LISTED])
    with points, patch.object(ends, "TRIES", 2):
        outcome = compaction.main(scale=0.02, seed=5)
    assert outcome.violations == ["sweep-listed: came 0 times, not 1, in 2 runs"]

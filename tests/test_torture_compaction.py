"""A short form of the long test of compaction's steps."""

from tests.torture import compaction


def test_a_node_ends_once_at_each_step() -> None:
    compaction.main(scale=0.02, seed=5).check()

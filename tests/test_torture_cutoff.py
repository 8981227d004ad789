"""The quick form of row 17."""

from tests.torture import cutoff


def test_no_answer_ends_as_if_it_were_whole() -> None:
    cutoff.main(0.05, 1).check()

"""The quick form of `make torture-cutoff`."""

from tests.torture import cutoff


def test_no_answer_that_went_wrong_has_a_clean_end() -> None:
    cutoff.main(scale=0.01, seed=1).check()

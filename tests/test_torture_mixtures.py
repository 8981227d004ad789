"""The quick form of `make torture-mixtures`."""

from tests.torture import mixtures


def test_a_file_is_merged_with_its_own_log_and_no_other() -> None:
    mixtures.main(scale=0.05, seed=3).check()

"""The quick form of `make torture-model`: always the same histories."""

from tests.torture.model import run_histories


def test_histories_of_the_store_go_as_those_of_a_dict() -> None:
    assert run_histories(histories=8, steps=40) > 100

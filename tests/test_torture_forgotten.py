"""The quick form of `make torture-forgotten`, and whether it would see a loss."""

from typing import Any
from unittest.mock import patch

from coordinator.metadata import marks, restoring
from tests.torture import forgotten


def test_what_is_forgotten_comes_back() -> None:
    forgotten.main(scale=0.03, seed=1).check()


def test_shards_that_are_found_later_and_ignored_are_found_out() -> None:
    with patch.object(restoring, "_improve", lambda *args: []):
        outcome = forgotten.main(scale=0.03, seed=1)
    assert outcome.violations


def test_pieces_that_are_not_marked_are_found_out() -> None:
    def none(*args: Any, **more: Any) -> list[Any]:
        return []

    with patch.object(marks, "lacking", none):
        outcome = forgotten.main(scale=0.03, seed=1)
    assert outcome.violations

"""The quick form of tests/torture/rebuild.py."""

from typing import Any
from unittest.mock import patch

from coordinator import moves
from coordinator.placement import Target
from tests.torture import rebuild


def test_quick_form() -> None:
    rebuild.main(0.02, seed=1).check()


def test_zones_that_stay_crowded_are_found_out() -> None:
    def is_better(target: Target, zone: str, *others: Any) -> bool:
        return target.zone == zone and others[1]

    with patch.object(moves, "_is_better", is_better):
        outcome = rebuild.main(0.02, seed=1)
    assert any("in a zone for no need" in violation for violation in outcome.violations)

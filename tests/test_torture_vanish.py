"""Sixty of the thousand clients of the long test, and whether it would see what they leave."""

from typing import Any
from unittest.mock import patch

from coordinator.write_upload import Upload
from tests.torture import vanish


def test_sixty_clients_vanish() -> None:
    vanish.main(scale=0.06, seed=16).check()


def test_an_upload_that_forgets_its_shards_is_found_out() -> None:
    def nothing(self: Any) -> list[Any]:
        return []

    with patch.object(Upload, "leftovers", nothing):
        outcome = vanish.main(scale=0.04, seed=16)
    assert any("shards were left on nodes" in violation for violation in outcome.violations)

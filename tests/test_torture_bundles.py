"""The quick form of `make torture-bundles`, and whether it would see a loss."""

from typing import Any
from unittest.mock import patch

from coordinator.read_path import ReadPath
from coordinator.rebuild import Rebuild
from tests.torture import bundles

ONE = 1 / bundles.HISTORIES  # a history: that of the seed itself


def test_what_shares_a_bundle_outlives_what_happens_to_it() -> None:
    bundles.main(scale=3 * ONE, seed=1).check()


def test_a_history_comes_again() -> None:
    assert bundles.main(scale=ONE, seed=1) == bundles.main(scale=ONE, seed=1)


async def always(*args: Any) -> bool:
    return True


async def never(*args: Any) -> bool:
    return False


def test_a_rebuild_that_believes_what_a_backup_names_is_found_out() -> None:
    with patch.object(ReadPath, "has", always):
        assert bundles.main(scale=ONE, seed=2005).violations


def test_a_rebuild_that_believes_where_a_backup_says_it_is_is_found_out() -> None:
    with patch.object(Rebuild, "_is_lost", never):
        assert bundles.main(scale=ONE, seed=301).violations

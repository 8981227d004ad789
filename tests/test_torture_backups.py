"""The quick form of `make torture-backups`, and whether it would see a deletion."""

from unittest.mock import patch

from coordinator.metadata import sessions
from tests.torture import backups


def test_a_restored_backup_deletes_nothing() -> None:
    backups.main(scale=0.015, seed=1).check()


def test_a_database_that_does_not_see_its_age_is_found_out() -> None:
    with patch.object(sessions, "stop_deletes", lambda *args: None):  # a rebuild has its own
        outcome = backups.main(scale=0.005, seed=1)
    assert any("no alarm" in violation for violation in outcome.violations)


def test_a_backup_that_is_relied_on_is_found_out() -> None:
    """What it knows, and was deleted since, is acknowledged when it is stored again."""
    with patch.object(sessions, "doubt", lambda *args: None):
        outcome = backups.main(scale=0.03, seed=7)
    assert outcome.violations

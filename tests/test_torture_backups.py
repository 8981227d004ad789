"""The quick form of `make torture-backups`, and whether it would see a deletion."""

from unittest.mock import patch

from coordinator.metadata import sessions, sharing
from coordinator.metadata.sql import Sql
from tests.torture import backups


def test_a_restored_backup_deletes_nothing() -> None:
    backups.main(scale=0.015, seed=1).check()


def test_a_database_that_does_not_see_its_age_is_found_out() -> None:
    def unaware(sql: Sql, node: int, known: int, told: int) -> tuple[int, bool]:
        return sessions.epoch(sql), False

    with patch.object(sharing, "tell_epoch", unaware):
        outcome = backups.main(scale=0.005, seed=1)
    assert any("no alarm" in violation for violation in outcome.violations)

"""The quick form of row 19."""

from tests.torture import restored


def test_a_restored_backup_deletes_nothing() -> None:
    restored.main(0.03, 1).check()

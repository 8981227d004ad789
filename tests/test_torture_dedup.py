"""The quick form of row 8."""

from tests.torture import dedup


def test_deletion_never_takes_what_an_upload_relies_on() -> None:
    dedup.main(0.005, 42).check()

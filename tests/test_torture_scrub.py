"""A short form of the long test of scrub, and whether it would see what was not found."""

from unittest.mock import patch

from shardd import verify
from tests.torture import scrub


def test_flipped_bytes_are_found() -> None:
    scrub.main(scale=0.02, seed=3).check()


def test_a_scrub_that_believes_headers_is_found_out() -> None:
    with patch.object(verify, "fault_of", lambda entry, record: ""):
        outcome = scrub.main(scale=0.01, seed=3)
    assert any("was not found" in violation for violation in outcome.violations)

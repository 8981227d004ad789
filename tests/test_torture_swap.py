"""The quick form of `make torture-swap`; one kind of it needs root."""

from pathlib import Path
from unittest.mock import patch

from tests.torture import mounts, swap
from tests.torture.outcome import CannotRun


def test_a_disk_in_the_wrong_place_takes_no_writes() -> None:
    swap.main(scale=0.01, seed=1).check()


def test_without_root_all_is_run_but_what_needs_it(tmp_path: Path) -> None:
    with patch.object(mounts, "call", side_effect=CannotRun("it needs root")):
        kinds, left_out = swap.allowed(tmp_path / "probe")
    assert len(kinds) == len(swap._KINDS) - 1
    assert left_out == "a disk hidden behind a mount: it needs root"

"""The quick form of `make torture-crashes`, and whether it would see a sync that is left out."""

from collections.abc import Callable
from typing import Any
from unittest.mock import patch

import pytest

from tests.disks.crashing import CrashDisk
from tests.disks.filesystem import Step, SyncFile, SyncFolder, Truncate, Unlink, Write
from tests.torture import crashes
from tests.torture.crash_programs import program_of
from tests.torture.crashes import Chosen

ROUNDS = 6  # at each step


def test_a_power_loss_or_kill_at_any_step_loses_nothing() -> None:
    crashes.main(scale=0.005, seed=1).check()


def _of_quarantined_file(disk: CrashDisk, last: Step, step: Step) -> bool:
    names = {number: path for path, number in disk._state.entries.items()}
    return (
        isinstance(last, Write)
        and isinstance(step, SyncFile)
        and "/quarantine/" in names[last.file]
    )


def _of_quarantine(disk: CrashDisk, last: Step, step: Step) -> bool:
    return isinstance(step, SyncFolder) and step.path.endswith("quarantine")


def _of_removal(disk: CrashDisk, last: Step, step: Step) -> bool:
    return isinstance(last, Unlink) and "/volumes/" in last.path and isinstance(step, SyncFolder)


def _of_cut(disk: CrashDisk, last: Step, step: Step) -> bool:
    return isinstance(last, Truncate) and isinstance(step, SyncFile)


TELLING = [
    ("new", "small set_aside", _of_quarantined_file),
    ("new", "small set_aside", _of_quarantine),
    ("new", "small condemn", _of_quarantine),
    ("buried", "compact small", _of_removal),
    ("new", "large small refused", _of_cut),
]


@pytest.mark.parametrize(("past", "names", "left_out"), TELLING)
def test_a_sync_that_is_left_out_is_found_out(
    past: str, names: str, left_out: Callable[[CrashDisk, Step, Step], bool]
) -> None:
    do = CrashDisk._do

    def forget(self: Any, step: Step) -> None:
        if not (self.steps and left_out(self, self.steps[-1], step)):
            do(self, step)

    chosen = [Chosen(past, program_of(names), range(ROUNDS))]
    crashes.crash_all(chosen, seed=1).check()
    with patch.object(CrashDisk, "_do", forget):
        outcome = crashes.crash_all(chosen, seed=1)
    assert not outcome.kept

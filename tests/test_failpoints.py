"""Failpoints: off unless armed, and what arming does."""

import subprocess
import sys

import pytest

from common.failpoints import ENVIRONMENT, EXIT_CODE, Point, arm, armed, failpoint
from coordinator.metadata import Metadata

_COMES_TWICE = """
import os
from common.failpoints import Point, arm, failpoint
arm(os.environ["SIXFOLD_FAILPOINT"], os._exit)
for _ in range(2):
    failpoint(Point.UPLOAD_COMMITTED)
    print("passed", flush=True)
"""


def test_a_point_that_is_not_armed_does_nothing() -> None:
    for point in Point:
        failpoint(point)


def test_an_armed_point_runs_the_action_and_raises_what_it_raises() -> None:
    def fail() -> None:
        raise OSError("planned")

    with armed(Point.UPLOAD_COMMITTED, fail):
        failpoint(Point.UPLOAD_COMMIT_BEGUN)
        with pytest.raises(OSError, match="planned"):
            failpoint(Point.UPLOAD_COMMITTED)
    failpoint(Point.UPLOAD_COMMITTED)


@pytest.mark.parametrize(("wanted", "passes"), [("", 2), (":2", 1), (":1", 0), (":3", 2)])
def test_a_process_ends_at_the_point_it_is_armed_for(wanted: str, passes: int) -> None:
    armed_for = Point.UPLOAD_COMMITTED + wanted if wanted else Point.UPLOAD_COMMIT_BEGUN
    done = subprocess.run(
        [sys.executable, "-c", _COMES_TWICE],
        env={ENVIRONMENT: armed_for, "PYTHONPATH": ":".join(sys.path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout.split() == ["passed"] * passes, done.stderr
    assert done.returncode == (EXIT_CODE if passes < 2 else 0)


def test_an_unknown_point_is_refused() -> None:
    arm("", sys.exit)
    with pytest.raises(ValueError, match="no-such-point"):
        arm("no-such-point", sys.exit)


async def test_what_a_job_remembers(metadata: Metadata) -> None:
    assert await metadata.job_states() == {}
    await metadata.save_job_state("repair", {"done": 1})
    await metadata.save_job_state("repair", {"done": 2, "after": None})
    assert (await metadata.job_states())["repair"].state == {"done": 2, "after": None}

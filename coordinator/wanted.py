"""Passes of jobs that any process may ask for, and the one that does the job then begins.

They are counted, so that whoever asked can tell when a pass that began later is through.
"""

from collections.abc import Mapping

from coordinator.metadata import JobState, Metadata

SUFFIX = "-wanted"  # beside the states of jobs, where it is no job
SCRUB, SWEEP = "scrub", "sweep"


def is_job(name: str) -> bool:
    """Whether this is the state of a job, among those of jobs and of what is wanted of them."""
    return not name.endswith(SUFFIX)


def wanted_passes(states: Mapping[str, JobState], job: str) -> int:
    """How often a pass was asked for."""
    asked = states.get(job + SUFFIX)
    return int(asked.state["passes"]) if asked else 0


async def want_pass(metadata: Metadata, job: str) -> int:
    """Ask for a pass now, or after the one that runs. Answered once the job has `served` the
    result."""
    counted = await metadata.count_in_job_state(job + SUFFIX, passes=1)
    return counted["passes"]

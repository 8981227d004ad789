"""Passes of jobs that any process may ask for, and the one that does the job then begins.

They are counted, so that whoever asked can tell when a pass that began later is through.
"""

from coordinator.metadata import Metadata

SUFFIX = "-wanted"  # beside the states of jobs, where it is no job
SCRUB, SWEEP = "scrub", "sweep"


async def wanted_passes(metadata: Metadata, job: str) -> int:
    """How often a pass was asked for."""
    states = await metadata.job_states()
    return int(states[job + SUFFIX].state["passes"]) if job + SUFFIX in states else 0


async def want_pass(metadata: Metadata, job: str) -> int:
    """Ask for a pass now, or after the one that runs. Answered once the job has `served` the
    result."""
    wanted = await wanted_passes(metadata, job) + 1
    await metadata.save_job_state(job + SUFFIX, {"passes": wanted})
    return wanted

"""Background jobs: one contract, and a loop that paces them.

Each job runs in one process of the cluster at a time: the one that holds its lease.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import fields
from typing import TYPE_CHECKING, Protocol, TypeVar

from common.errors import SixfoldError
from coordinator.metadata import JobState, Metadata

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

log = logging.getLogger(__name__)

P = TypeVar("P", bound="DataclassInstance")

LEASE_S = 15
AGAIN_S = 1.0


class Worker(Protocol):
    """A job: a name, how long it rests when there is nothing to do, and one step."""

    name: str
    rest_s: float

    async def step(self) -> bool:
        """Do a piece of work. True if there may be more at once. It is cancelled when the lease
        ends, and leaves nothing running."""


async def keep_going(name: str, task: Callable[[], Awaitable[None]]) -> None:
    """Do for ever what should never end. An error that it ends with is a defect: it must be seen,
    and what the whole process relies on must not be gone for good."""
    while True:
        try:
            await task()
        except Exception:
            log.exception("%s: ended with an error, and begins again", name)
        await asyncio.sleep(AGAIN_S)


async def run_worker(worker: Worker, metadata: Metadata, renew_s: float = LEASE_S / 3) -> None:
    """For ever: waits for the job's lease and does the job while it holds. Cancelled, it gives
    the lease back."""
    try:
        while True:
            until_s = time.monotonic() + LEASE_S
            with suppress(SixfoldError):  # the next try is near
                if epoch := await metadata.take_lease(worker.name, LEASE_S):
                    log.info("%s: done by this process (epoch %d)", worker.name, epoch)
                    await _work_while_held(worker, metadata, epoch, until_s, renew_s)
                    log.warning("%s: another process may do it now", worker.name)
            await asyncio.sleep(renew_s)
    finally:
        with suppress(SixfoldError):
            await metadata.give_back_lease(worker.name)


async def _work_while_held(
    worker: Worker, metadata: Metadata, epoch: int, until_s: float, renew_s: float
) -> None:
    """A step is cut short if the lease ends. Another process's may overlap with it nevertheless,
    after a pause of this one: what a step does must bear that."""
    async with asyncio.TaskGroup() as group:
        steps = group.create_task(_step_for_ever(worker), name=worker.name)
        while time.monotonic() < until_s:
            await asyncio.sleep(renew_s)
            asked_at_s = time.monotonic()
            with suppress(SixfoldError, TimeoutError):
                async with asyncio.timeout(until_s - asked_at_s):
                    if await metadata.take_lease(worker.name, LEASE_S) != epoch:
                        break
                until_s = asked_at_s + LEASE_S
        steps.cancel()


async def _step_for_ever(worker: Worker) -> None:
    """An error ends the step, not the job."""
    while True:
        try:
            more = await worker.step()
        except SixfoldError as error:
            log.warning("%s: %s", worker.name, error)
            more = False
        except Exception:  # a defect: it must be seen, and must not end the job for good
            log.exception("%s: a step failed", worker.name)
            more = False
        await asyncio.sleep(0 if more else worker.rest_s)


def progress_in(states: Mapping[str, JobState], job: str, kind: type[P]) -> P:
    """Where the job stood when it last said so, whichever process and version did it: what this
    one does not know is left out."""
    state = states[job].state if job in states else {}
    return kind(**{f.name: state[f.name] for f in fields(kind) if f.name in state})

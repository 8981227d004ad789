"""Hypothesis makes up histories of the store, and shrinks those that end badly."""

from unittest.mock import patch

import hypothesis
from hypothesis import HealthCheck, settings
from hypothesis.stateful import run_state_machine_as_test

from tests.torture.model_machine import StoreMachine
from tests.torture.model_operator import OperatedMachine
from tests.torture.outcome import Outcome, quiet, scaled

ROW = 25
PROMISE = "any history of the store, with faults, goes as that of a dict"
HISTORIES, STEPS = 1_000, 60


def run_histories(histories: int, steps: int, seed: int | None = None) -> int:
    """How many steps they took. With no seed the histories are always the same ones. Raises what
    a history ended with; its steps are in the notes of the exception."""

    class Machine(OperatedMachine):
        pass

    if seed is not None:
        hypothesis.seed(seed)(Machine)
    with quiet(), patch("coordinator.sweep.PAGE_REST_S", 0):
        _run(Machine, histories, steps, derandomize=seed is None)
    return Machine.steps


def _run(machine: type[StoreMachine], histories: int, steps: int, derandomize: bool) -> None:
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=histories,
            stateful_step_count=steps,
            derandomize=derandomize,
            database=None,
            deadline=None,
            print_blob=True,
            suppress_health_check=list(HealthCheck),
        ),
    )


def main(scale: float, seed: int) -> Outcome:
    histories = scaled(HISTORIES, scale)
    steps = run_histories(histories, STEPS, seed)
    return Outcome(f"{histories:,} histories, {steps:,} steps, 0 went wrong")

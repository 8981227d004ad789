"""Tests that need more of a machine than others."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.torture.outcome import CannotRun

MUST_RUN = "SIXFOLD_TESTS_MUST_RUN"


@contextmanager
def where_it_can_run() -> Iterator[None]:
    """What mounts filesystems or makes network namespaces needs root, which not every machine gives
    to tests: there it is skipped, with what the machine said. Where everything must run, as in CI,
    that is a failure."""
    try:
        yield
    except CannotRun as reason:
        if os.environ.get(MUST_RUN):
            raise
        pytest.skip(str(reason))

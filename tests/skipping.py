"""Tests that need more of a machine than others."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.torture.outcome import CannotRun


@contextmanager
def where_it_can_run() -> Iterator[None]:
    """What mounts filesystems or makes network namespaces needs root, which not every machine gives
    to tests: there it is skipped, with what the machine said. CI has root, and runs it."""
    try:
        yield
    except CannotRun as reason:
        pytest.skip(str(reason))

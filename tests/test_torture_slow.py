"""The quick form of `make torture-slow`: how many requests, not how long; and whether it would see
reads that are hedged never, or too often."""

from collections.abc import Mapping
from typing import Any
from unittest.mock import patch

import pytest

from common.units import KIB
from coordinator import latency
from coordinator.latency import HedgePolicy, SlowNodes
from tests.torture import slow, stopped_node


def test_a_slow_node_costs_few_extra_requests() -> None:
    slow.main(scale=0.05, seed=1).check()


@pytest.fixture
def in_one_process(monkeypatch: pytest.MonkeyPatch) -> None:
    async def none(*ignored: Any) -> Mapping[str, float]:
        return {}

    monkeypatch.setattr(stopped_node, "ratios", none)
    monkeypatch.setattr(slow, "DELAY_S", 0.3)
    monkeypatch.setattr(slow, "SILENT_S", 0.3)
    monkeypatch.setattr(slow, "DRIP_BYTES_PER_S", 12 * KIB)


@pytest.mark.usefixtures("in_one_process")
def test_reads_that_wait_for_the_slow_node_are_found_out() -> None:
    with patch.object(HedgePolicy, "take", lambda self, requests: 0):
        outcome = slow.main(scale=0.05, seed=1)
    assert any("GETs waited for a slow node" in violation for violation in outcome.violations)


@pytest.mark.usefixtures("in_one_process")
def test_ranges_that_do_not_go_around_the_slow_node_are_found_out() -> None:
    with (
        patch.object(slow, "RUNS", 1),
        patch.object(latency, "HEDGE_SHARE", 0.2),  # enough for the others
        patch.object(SlowNodes, "missed", lambda self, node: None),
    ):
        outcome = slow.main(scale=0.05, seed=1)
    assert any("ranges waited for a slow node" in violation for violation in outcome.violations)


@pytest.mark.usefixtures("in_one_process")
def test_too_many_extra_requests_are_found_out() -> None:
    with (
        patch.object(latency, "HEDGE_SHARE", 0.5),
        patch.object(SlowNodes, "missed", lambda self, node: None),
    ):
        outcome = slow.main(scale=0.05, seed=1)
    assert any("would do" in violation for violation in outcome.violations)

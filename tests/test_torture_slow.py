"""The quick form of `make torture-slow`: how many requests, not how long."""

from tests.torture import slow


def test_a_slow_node_costs_few_extra_requests() -> None:
    slow.main(scale=0.05, seed=1).check()

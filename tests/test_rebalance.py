"""Rebalance: shards move from the fullest nodes to emptier ones, never to where they lie worse."""

import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from common.ids import ContentId
from coordinator import rebalance
from coordinator.config import Config
from coordinator.jobs import LEASE_S
from coordinator.moves import relief
from coordinator.placement import Target
from coordinator.server import Coordinator
from tests.stores import SECRET
from tests.torture.one_process import Front, Store

CONTENTS, SHARD_BYTES = 40, 10_000
SPREAD = tuple(range(1, 10))


async def filled_unevenly(store: Store) -> dict[ContentId, bytes]:
    """Node 9 was away while everything was stored."""
    await store.kill(9)
    rng, contents = random.Random(5), {}
    for _ in range(CONTENTS):
        data = rng.randbytes(6 * SHARD_BYTES)
        contents[(await store.fronts[0].put(data)).id] = data
    await store.restart(9)
    shrink(store)
    return contents


def shrink(store: Store) -> None:
    """To nodes for which this is much, until they report again."""
    for front in store.fronts:
        for node in front.cluster.membership.nodes.values():
            assert node.report is not None
            node.report = replace(node.report, capacity_bytes=4_000_000, free_bytes=3_000_000)


async def held(store: Store) -> list[int]:
    return [len(await node.shards()) for node in store.nodes.values()]


async def check(store: Store, contents: dict[ContentId, bytes]) -> None:
    await store.fronts[0].work("outbox")
    shards = await held(store)
    assert sum(shards) == 9 * CONTENTS
    assert max(shards) - min(shards) <= 4
    for id_, data in contents.items():
        assert await store.fronts[1].get(id_) == data


def moving(front: Front) -> bool:
    job = front.jobs["rebalance"]
    assert isinstance(job, rebalance.RebalanceWorker)
    return job._balance.moving


async def test_it_moves_from_the_fullest_until_all_are_even(store: Store) -> None:
    contents = await filled_unevenly(store)
    await store.fronts[0].work("rebalance")
    await check(store, contents)
    states = await store.fronts[0].metadata.job_states()
    state = states["rebalance"].state
    assert state["gap"] <= rebalance.END_GAP
    assert state["bytes"] == state["segments"] * SHARD_BYTES > 0
    assert not state["moving"]


async def test_another_process_goes_on_where_one_has_stopped(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rebalance, "MOVED_AT_ONCE", 2)
    contents = await filled_unevenly(store)
    first, second = store.fronts
    while not moving(first):
        assert await first.jobs["rebalance"].step()
    assert await first.jobs["rebalance"].step()
    before = (await first.metadata.job_states())["rebalance"].state
    assert before["moving"] and before["after"]
    await store.pass_time(LEASE_S)
    shrink(store)
    await second.work("rebalance")
    state = (await first.metadata.job_states())["rebalance"].state
    assert state["segments"] > before["segments"] > 0
    await check(store, contents)


async def test_even_nodes_are_left_alone(store: Store) -> None:
    data = random.Random(1).randbytes(60_000)
    await store.fronts[0].put(data)
    before = await held(store)
    await store.fronts[0].work("rebalance")
    assert await held(store) == before


async def test_repair_comes_first(store: Store) -> None:
    contents = await filled_unevenly(store)
    manifest = await store.fronts[0].reads.find(next(iter(contents)))
    stored = manifest.segments[0]
    node = store.nodes[stored.layout[2]].store
    assert node is not None
    await node.delete([stored.address(2)])
    await store.fronts[0].get(manifest.id)
    await store.fronts[0].settle()
    await store.fronts[0].work("rebalance")
    assert not (await held(store))[8]
    await store.fronts[0].work("repair")
    assert (await held(store))[8]


@pytest.mark.parametrize("off", [False, True])
async def test_it_can_be_switched_off(tmp_path: Path, off: bool) -> None:
    config = Config(data=str(tmp_path), secret_file="unused", port=0, no_rebalance=off)
    async with Coordinator(config, SECRET) as coordinator:
        jobs = [worker.name for worker in coordinator._workers(coordinator.services)]
    assert ("rebalance" in jobs) is not off


def targets(*zones: str) -> list[Target]:
    """Nodes from 1 on, each emptier than the one before."""
    return [Target(number, zone, 1 / number) for number, zone in enumerate(zones, 1)]


def relieved(layout: Sequence[int], nodes: Sequence[Target], **more: set[tuple[int, int]]) -> int:
    """Where shard 0 goes; 0 if it stays."""
    zones = {node.number: node.zone for node in nodes}
    return relief(layout, {0}, zones.__getitem__, nodes, 3, **more).get(0, 0)


def test_the_least_filled_of_the_nodes_without_a_shard_is_taken() -> None:
    assert relieved(SPREAD, targets(*"aaabbbcccddd")) == 12
    assert relieved(SPREAD, targets(*"aaabbbcccddd"), forbidden={(0, 12)}) == 11


def test_a_shard_stays_rather_than_lie_worse() -> None:
    """On a node that has another of them, or as the fourth in a zone."""
    assert relieved(SPREAD, targets(*"aaabbbccc")) == 0
    assert relieved(SPREAD, targets(*"aaabbbcccb")) == 0
    assert relieved(SPREAD, targets(*"aaabbbccca")) == 10
    assert relieved(SPREAD, targets(*"aaabbbcccd"), forbidden={(0, 10)}) == 0


def test_several_shards_do_not_go_to_one_node() -> None:
    nodes = targets(*"abcdefghijkl")
    zones = {node.number: node.zone for node in nodes}
    found = relief((1, 1, *range(3, 10)), {0, 1}, zones.__getitem__, nodes, 3)
    assert Counter(found.values()) == {12: 1, 11: 1}

"""What a coordinator thinks of its nodes: states over time, impostors, who may take shards."""

import asyncio
import os
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import aiohttp
import pytest

from common.errors import Conflict, NotFound, StorageFull, Undurable, WrongCluster
from common.ids import SegmentId
from common.membership import NodeReport, ReportAnswer
from coordinator.cluster import Cluster
from coordinator.config import Config
from coordinator.membership import Membership
from coordinator.metadata import Metadata, Wish, open_metadata, sessions
from coordinator.node import NodeState
from coordinator.wanted import wanted_passes
from tests.lane_peer import SECRET
from tests.reports import report_of

SUSPECT_S, LOST_S = 10.0, 900.0
SEGMENT = SegmentId(bytes(32))


class Clock:
    """Monotonic seconds, moved by the test."""

    now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def metadata(tmp_path: Path) -> AsyncIterator[Metadata]:
    opened = open_metadata(tmp_path, "", 0)
    await opened.start()
    yield opened
    await opened.close()


@pytest.fixture
async def membership(metadata: Metadata, clock: Clock) -> Membership:
    made = Membership(metadata, clock, SUSPECT_S, LOST_S)
    await made.load()
    return made


async def hear(membership: Membership, report: NodeReport) -> ReportAnswer:
    """As if the node had sent it to this process."""
    return await membership.report(report, os.urandom(16))


async def join(membership: Membership, number: int, **changes: Any) -> int:
    """As a node does that can be reached. Its number."""
    answer = await hear(membership, report_of(number, **changes))
    membership.nodes[answer.number].reachable = True
    return answer.number


async def test_silence_makes_a_node_suspect_then_lost_and_a_word_active(
    membership: Membership, clock: Clock
) -> None:
    number = await join(membership, 1)
    node = membership.nodes[number]
    for passed_s, state in (
        (9.9, NodeState.ACTIVE),
        (10.0, NodeState.SUSPECT),
        (450.0, NodeState.SUSPECT),
        (899.0, NodeState.SUSPECT),
        (900.0, NodeState.LOST),
    ):
        clock.now_s = 1000.0 + passed_s
        assert membership.state(node) is state
        await membership.look()
    assert await join(membership, 1) == number
    assert membership.state(node) is NodeState.ACTIVE


async def test_a_node_without_lanes_is_suspect_at_once(membership: Membership) -> None:
    node = membership.nodes[await join(membership, 1)]
    node.reachable = False
    assert membership.state(node) is NodeState.SUSPECT
    assert membership.targets(1) == {}


async def test_a_read_only_node_takes_nothing(membership: Membership) -> None:
    node = membership.nodes[await join(membership, 1, failure="fsync failed")]
    assert membership.state(node) is NodeState.READ_ONLY
    assert membership.targets(1) == {}
    assert membership.is_readable(node.number)


async def test_what_lies_on_a_detached_node_is_lost_in_time(
    membership: Membership, clock: Clock
) -> None:
    """It will not outlive its process, though it can be read until then."""

    async def beat(detached: bool) -> NodeState:
        clock.now_s += LOST_S / 2
        await membership.look()
        await join(membership, 1, detached=detached, failure="gone" if detached else "")
        return membership.state(node)

    await membership.look()
    node = membership.nodes[await join(membership, 1)]
    assert membership.is_lasting(node.number)
    assert await beat(detached=True) is NodeState.DETACHED
    assert membership.targets(1) == {}
    assert await beat(detached=True) is NodeState.DETACHED
    assert await beat(detached=True) is NodeState.LOST
    assert membership.is_readable(node.number)
    assert not membership.is_lasting(node.number)
    assert await beat(detached=False) is NodeState.ACTIVE
    assert await beat(detached=True) is NodeState.DETACHED


async def test_a_node_that_reports_but_cannot_be_reached_is_lost_in_time(
    membership: Membership, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    """Its shards are as far away as those of a silent one."""

    async def beat(passed_s: float) -> NodeState:
        clock.now_s += passed_s
        await hear(membership, report_of(1))
        await membership.look()
        return membership.state(node)

    await membership.look()
    node = membership.nodes[await join(membership, 1)]
    assert await beat(100.0) is NodeState.ACTIVE
    node.reachable = False
    assert await beat(0.0) is NodeState.SUSPECT
    assert membership.trouble(node) == ""
    assert await beat(449.0) is NodeState.SUSPECT
    assert await beat(450.0) is NodeState.SUSPECT
    assert not membership.is_gone(1)
    assert await beat(1.0) is NodeState.LOST
    assert membership.is_gone(1)
    alarms = [record.message for record in caplog.records if record.levelname == "ERROR"]
    assert alarms == ["node-1: it reports, but 127.0.0.1:1 cannot be reached"]
    node.reachable = True
    assert await beat(0.0) is NodeState.ACTIVE
    assert membership.trouble(node) == ""
    assert not membership.is_leaving(1)


async def test_a_new_node_is_not_lost_before_it_was_reached(
    membership: Membership, clock: Clock
) -> None:
    for _ in range(4):
        await membership.look()
        clock.now_s += LOST_S / 2
    await membership.look()
    await hear(membership, report_of(1))
    assert membership.state(membership.nodes[1]) is NodeState.SUSPECT


async def test_who_can_be_reached_but_is_silent_is_waited_for_until_it_is_lost(
    metadata: Metadata, clock: Clock
) -> None:
    before = Membership(metadata, clock, SUSPECT_S, LOST_S)
    await before.load()
    for number in (1, 2, 3):
        await join(before, number)
    await metadata.set_wish(3, Wish.REMOVED)
    membership = Membership(metadata, clock, SUSPECT_S, LOST_S)
    await membership.load()
    for node in membership.nodes.values():
        node.reachable = True
    silent = membership.nodes[2]
    clock.now_s += LOST_S
    assert not membership.all_have_reported()  # of nobody anything is known
    await membership.look()
    await join(membership, 1)
    for passed_s, alarm in ((0.0, False), (450.0, True), (449.0, True)):
        clock.now_s += passed_s
        await membership.look()
        assert not membership.all_have_reported()
        assert ("nothing is collected" in membership.trouble(silent)) is alarm
    clock.now_s += 1.0
    assert membership.all_have_reported()
    assert membership.state(silent) is NodeState.LOST
    assert membership.is_leaving(2)
    assert not membership.is_gone(2)
    assert not membership.has_reported(2)  # nothing is deleted on it


async def test_a_node_with_an_old_directory_is_swept_soon(membership: Membership) -> None:
    number = await join(membership, 1)
    told = await membership.metadata._read(sessions.epoch)
    assert wanted_passes(await membership.metadata.job_states(), "sweep") == 0
    membership.nodes[number].reachable = False  # it was restarted
    await join(membership, 1, instance=f"{2:032x}", epoch=told - 1)
    assert wanted_passes(await membership.metadata.job_states(), "sweep") == 1


async def test_nodes_known_from_before_are_lost_only_after_a_full_wait(
    metadata: Metadata, clock: Clock
) -> None:
    before = Membership(metadata, clock, SUSPECT_S, LOST_S)
    number = await join(before, 1)
    clock.now_s += 10 * LOST_S
    after = Membership(metadata, clock, SUSPECT_S, LOST_S)
    await after.load()
    assert after.state(after.nodes[number]) is NodeState.SUSPECT
    for _ in range(2):
        await after.look()
        clock.now_s += LOST_S / 2
    assert after.state(after.nodes[number]) is NodeState.LOST


async def test_a_process_that_was_stopped_does_not_take_its_own_silence_for_that_of_nodes(
    membership: Membership, clock: Clock
) -> None:
    number = await join(membership, 1)
    clock.now_s += 2 * LOST_S
    assert membership.state(membership.nodes[number]) is NodeState.SUSPECT
    await membership.look()
    clock.now_s += LOST_S / 2
    assert membership.state(membership.nodes[number]) is NodeState.SUSPECT
    await membership.look()
    clock.now_s += LOST_S / 2
    assert membership.state(membership.nodes[number]) is NodeState.LOST


async def test_a_node_goes_by_its_name_and_id_and_not_by_its_number(
    membership: Membership,
) -> None:
    """Who says 3 and means node-3 shall not drain node-7, which happened to join as the third."""
    for number in (5, 6, 7, 3):
        await join(membership, number)
    assert membership.nodes[3].row.name == "node-7"
    assert membership.find("node-7") is membership.find(f"{7:032x}") is membership.nodes[3]
    with pytest.raises(NotFound, match="no node is called '3': sixfold nodes shows"):
        membership.find("3")


async def test_two_nodes_of_one_name_are_told_apart_by_their_ids(membership: Membership) -> None:
    for number in (1, 2):
        await join(membership, number)
    membership.nodes[2].row = replace(membership.nodes[2].row, name="node-1")
    with pytest.raises(Conflict, match=f"2 nodes .*'node-1': use the id, of {1:032x}, {2:032x}"):
        membership.find("node-1")
    membership.nodes[2].row = replace(membership.nodes[2].row, wish=Wish.REMOVED)
    assert membership.find("node-1") is membership.nodes[1]
    assert membership.find(f"{2:032x}") is membership.nodes[2]


async def test_numbers_are_kept_and_not_shared(membership: Membership) -> None:
    numbers = [await join(membership, n) for n in (1, 2, 3, 1, 2, 3)]
    assert numbers[:3] == numbers[3:]
    assert len(set(numbers)) == 3


async def test_concurrent_first_reports_get_one_number(membership: Membership) -> None:
    answers = await asyncio.gather(*(hear(membership, report_of(7)) for _ in range(5)))
    assert len({answer.number for answer in answers}) == 1
    assert len(membership.nodes) == 1


async def test_another_cluster_is_refused(membership: Membership) -> None:
    with pytest.raises(WrongCluster):
        await hear(membership, report_of(1, cluster_id="ab" * 16))
    assert membership.nodes == {}


async def test_a_second_process_of_a_living_node_is_refused(
    membership: Membership, clock: Clock
) -> None:
    node = membership.nodes[await join(membership, 1)]
    with pytest.raises(Conflict, match="already served"):
        await hear(membership, report_of(1, instance=f"{2:032x}"))
    node.reachable = False  # the first one has gone
    await hear(membership, report_of(1, instance=f"{2:032x}", data_port=2))
    assert node.report is not None
    assert node.report.data_port == 2


async def test_what_was_sent_counts_until_the_next_report(membership: Membership) -> None:
    number = await join(membership, 1)
    assert membership.targets(1)[number].fill == pytest.approx(0.1)
    membership.count_sent(number, 400)
    assert membership.targets(1)[number].fill == pytest.approx(0.5)
    assert membership.targets(500) == {}
    await join(membership, 1, used_bytes=500, free_bytes=500)
    assert membership.targets(1)[number].fill == pytest.approx(0.5)


async def test_zones_are_counted_again_after_a_second(membership: Membership, clock: Clock) -> None:
    for number, zone in ((1, "a"), (2, "a"), (3, "b"), (4, "c")):
        await join(membership, number, zone=zone, free_bytes=5 if zone == "c" else 900)
    assert membership.zone_sizes(10) == {"a": 2, "b": 1}
    membership.nodes[1].reachable = False
    assert membership.zone_sizes(10) == {"a": 2, "b": 1}
    clock.now_s += 1
    assert membership.zone_sizes(10) == {"a": 1, "b": 1}


async def test_placement_needs_three_nodes_with_room(
    metadata: Metadata, clock: Clock, tmp_path: Path
) -> None:
    config = Config(data=str(tmp_path), secret_file="unused")
    async with aiohttp.ClientSession() as http:
        cluster = Cluster(config, SECRET, metadata, http, clock)
        cluster.membership.on_report = lambda node: None
        for number in (1, 2):
            await join(cluster.membership, number)
        with pytest.raises(Undurable, match="2 storage nodes are active, 3 are needed"):
            cluster.place(SEGMENT, 10, 6, 9)
        await join(cluster.membership, 3, free_bytes=5)
        with pytest.raises(StorageFull, match="2 of 3 storage nodes have room"):
            cluster.place(SEGMENT, 10, 6, 9)
        assert len(set(cluster.place(SEGMENT, 4, 6, 9).layout)) == 3
        await cluster.close()


def test_a_node_that_was_never_heard_of_is_not_readable(clock: Clock) -> None:
    metadata = cast(Metadata, SimpleNamespace(cluster_id=""))
    assert not Membership(metadata, clock, SUSPECT_S, LOST_S).is_readable(5)

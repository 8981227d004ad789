"""What several processes learn of nodes from one database. Each `Metadata` stands for a process."""

import asyncio
import os

import pytest

from common.errors import Conflict, Unauthorized
from coordinator.membership import Membership
from coordinator.metadata import Metadata, SharedReport
from coordinator.metadata.sharing import NONCE_KEPT_S
from coordinator.node import NodeState
from tests.metadata_parts import Clock
from tests.reports import ALIVE_S, incoming, report_of

ONE, TWO, THREE = (f"{number:032x}" for number in (1, 2, 3))  # instances


async def shared_with(metadata: Metadata, since_s: int = 0) -> list[SharedReport]:
    return (await metadata.reports_since(since_s, {}))[1]


# Reports


async def test_a_report_reaches_the_others(both: tuple[Metadata, Metadata], clock: Clock) -> None:
    a, b = both
    taken = await a.save_report(incoming(1))
    clock.now_s += 3
    assert await shared_with(b) == [SharedReport(taken.node, taken.version, report_of(1), 3)]
    later = await b.save_report(incoming(1, used_bytes=200))
    assert later.version > taken.version
    assert await shared_with(a) == [
        SharedReport(taken.node, later.version, report_of(1, used_bytes=200), 0)
    ]


async def test_only_what_is_new_is_read(both: tuple[Metadata, Metadata], clock: Clock) -> None:
    a, b = both
    for number in (1, 2):
        await a.save_report(incoming(number))
    now_s, found = await b.reports_since(0, {})
    known = {shared.node.number: shared.version for shared in found}
    assert (now_s, len(known)) == (int(clock.now_s), 2)
    assert await b.reports_since(now_s, known) == (now_s, [])
    clock.now_s += 5
    taken = await a.save_report(incoming(2))
    assert await b.reports_since(now_s, known) == (
        now_s + 5, [SharedReport(taken.node, taken.version, report_of(2), 0)]
    )  # fmt: skip


async def test_a_replay_is_refused_by_every_process(
    both: tuple[Metadata, Metadata], clock: Clock
) -> None:
    a, b = both
    await a.save_report(incoming(1, nonce=b"n"))
    for process in both:
        with pytest.raises(Unauthorized, match="replay"):
            await process.save_report(incoming(1, nonce=b"n", used_bytes=7, zone="elsewhere"))
    assert [shared.report for shared in await shared_with(b)] == [report_of(1)]
    assert [row.zone for row in await a.nodes()] == ["default"]
    clock.now_s += NONCE_KEPT_S + 1  # its signature has expired long since
    await b.save_report(incoming(1, nonce=b"n"))


async def test_the_nonce_of_a_refused_report_is_spent(
    both: tuple[Metadata, Metadata], clock: Clock
) -> None:
    a, b = both
    await a.save_report(incoming(1, instance=ONE))
    with pytest.raises(Conflict):
        await b.save_report(incoming(1, nonce=b"n", instance=TWO))
    clock.now_s += ALIVE_S
    with pytest.raises(Unauthorized):
        await a.save_report(incoming(1, nonce=b"n", instance=TWO))


async def test_an_impostor_is_refused_by_a_process_that_never_heard_of_the_node(
    both: tuple[Metadata, Metadata], clock: Clock
) -> None:
    a, b = both
    await a.save_report(incoming(1, instance=ONE))
    clock.now_s += ALIVE_S - 1
    with pytest.raises(Conflict, match="already served"):
        await b.save_report(incoming(1, instance=TWO))
    clock.now_s += 1  # silent for too long to be believed alive
    await b.save_report(incoming(1, instance=TWO))


async def test_whoever_has_seen_a_process_go_takes_its_successor(
    both: tuple[Metadata, Metadata],
) -> None:
    a, b = both
    await a.save_report(incoming(1, instance=ONE))
    await b.save_report(incoming(1, instance=TWO, gone=ONE))
    with pytest.raises(Conflict):  # what A knows is not the last word any more
        await a.save_report(incoming(1, instance=THREE, gone=ONE))


async def test_concurrent_reports_of_processes(both: tuple[Metadata, Metadata]) -> None:
    saved = await asyncio.gather(
        *(both[turn % 2].save_report(incoming(turn // 4)) for turn in range(200))
    )
    assert len({taken.node.number for taken in saved}) == 50
    assert len({(taken.node.number, taken.version) for taken in saved}) == 200


async def test_a_report_of_another_version_of_sixfold_is_passed_over(
    both: tuple[Metadata, Metadata],
) -> None:
    a, b = both
    await a.save_report(incoming(1))
    await a._write(lambda sql: sql.run("UPDATE node_report SET report = ?", '{"new": 1}'))
    assert await shared_with(b) == []
    await a.save_report(incoming(1))
    assert len(await shared_with(b)) == 1


# Membership


def member(metadata: Metadata, clock: Clock) -> Membership:
    return Membership(metadata, clock, 10.0, 900.0)


async def test_a_node_is_active_everywhere(both: tuple[Metadata, Metadata], clock: Clock) -> None:
    a, b = (member(metadata, clock) for metadata in both)
    await b.load()
    linked: list[int] = []
    b.on_report = lambda node: linked.append(node.number)
    number = (await a.report(report_of(1), os.urandom(16))).number
    await b.look()
    assert linked == [number]
    b.nodes[number].reachable = True
    assert b.state(b.nodes[number]) is NodeState.ACTIVE
    b.count_sent(number, 500)
    await b.look()
    assert (linked, b.nodes[number].sent_bytes) == ([number], 500)  # nothing new was said
    clock.now_s += 8
    await a.report(report_of(1), os.urandom(16))
    clock.now_s += 8
    await b.look()
    assert b.state(b.nodes[number]) is NodeState.ACTIVE
    assert b.silent_s(b.nodes[number]) == 8
    clock.now_s += 2
    assert b.state(b.nodes[number]) is NodeState.SUSPECT


async def test_an_empty_disk_in_the_place_of_a_node_is_no_new_node(
    both: tuple[Metadata, Metadata], clock: Clock
) -> None:
    a, b = (member(metadata, clock) for metadata in both)
    number = (await a.report(report_of(1), os.urandom(16))).number
    with pytest.raises(Conflict, match="Is its disk mounted"):
        await b.report(report_of(77, name="node-1"), os.urandom(16))
    assert [row.number for row in await both[0].nodes()] == [number]
    assert (await b.report(report_of(1), os.urandom(16))).number == number
    assert (await b.report(report_of(77), os.urandom(16))).number != number


async def test_clocks_of_processes_do_not_matter(
    both: tuple[Metadata, Metadata], clock: Clock
) -> None:
    a, b = member(both[0], Clock(5.0)), member(both[1], Clock(900_000.0))
    number = (await a.report(report_of(1), os.urandom(16))).number
    clock.now_s += 4
    await b.look()
    assert b.silent_s(b.nodes[number]) == 4


@pytest.mark.parametrize(("silent_s", "linked"), [(9, True), (10, False)])
async def test_what_a_new_process_knows_at_once(
    both: tuple[Metadata, Metadata], clock: Clock, silent_s: int, linked: bool
) -> None:
    """All nodes; but where one was that fell silent, something else may be by now."""
    number = (await member(both[0], clock).report(report_of(1), os.urandom(16))).number
    clock.now_s += silent_s
    fresh, links = member(both[1], clock), list[int]()
    fresh.on_report = lambda node: links.append(node.number)
    await fresh.load()
    assert fresh.nodes[number].report == report_of(1)
    assert links == ([number] if linked else [])


async def test_what_was_read_before_a_younger_report_came_does_not_undo_it(
    both: tuple[Metadata, Metadata], clock: Clock
) -> None:
    a, b = (member(metadata, clock) for metadata in both)
    number = (await a.report(report_of(1), os.urandom(16))).number
    _, read = await both[1].reports_since(0, {})
    await b.report(report_of(1, data_port=2), os.urandom(16))
    b._take_over(read[0])
    report = b.nodes[number].report
    assert report is not None
    assert report.data_port == 2


async def test_an_impostor_is_refused_by_the_process_that_it_turns_to(
    both: tuple[Metadata, Metadata], clock: Clock
) -> None:
    a, b = (member(metadata, clock) for metadata in both)
    number = (await a.report(report_of(1, instance=ONE), os.urandom(16))).number
    other = report_of(1, instance=TWO)
    with pytest.raises(Conflict):  # B has not looked yet
        await b.report(other, os.urandom(16))
    await b.look()
    b.nodes[number].reachable = True
    with pytest.raises(Conflict):
        await b.report(other, os.urandom(16))
    b.nodes[number].reachable = False  # the first one is gone
    await b.report(other, os.urandom(16))
    await a.look()
    assert a.nodes[number].report == other


async def test_a_member_that_a_backup_does_not_know_keeps_its_name(metadata: Metadata) -> None:
    """The backup is of the time when another node was called so, which was removed since."""
    old = await metadata.save_report(incoming(1))
    found = await metadata.save_report(incoming(77, name="node-1", epoch=old.epoch))
    assert (found.node.name, found.node.number != old.node.number) == ("node-1", True)
    names = {row.number: row.name for row in await metadata.nodes()}
    assert names[old.node.number] == f"node-1-{1:032x}"[: len("node-1-") + 8]
    with pytest.raises(Conflict, match="Is its disk mounted"):
        await metadata.save_report(incoming(78, name="node-1"))

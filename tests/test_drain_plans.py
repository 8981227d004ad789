"""What is told of a drain before it begins: what cannot be moved, how long the rest takes, and what
the store survives now and then."""

import shutil
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from common.errors import Conflict
from common.units import MIB
from coordinator.drain_plan import DrainPlan
from coordinator.draining import Draining
from coordinator.metadata import Wish
from sixfold.nodes_cli import _left, _plan_lines
from tests.metadata_parts import notice
from tests.test_repair import filled
from tests.torture.one_process import Front, Store

ZONES = [*"aaaa", *"bbbb", *"ccc"]  # without one of the last, three zones do not take 3 + 3 + 3
MEASURED = {"bytes_per_s": 2.0 * MIB, "segments_per_s": 2.0}


@pytest.fixture
async def zoned(tmp_path: Path) -> AsyncIterator[Store]:
    """Eleven nodes, of which any zone may be lost."""
    store = Store(tmp_path, ZONES)
    await store.start()
    yield store
    await store.close()


async def plan_of(front: Front, number: int) -> DrainPlan:
    return await front.draining.plan(front.cluster.membership.nodes[number])


async def words_of(front: Front, number: int) -> dict[str, str]:
    """What `sixfold drain --dry-run` prints, by what it is about."""
    plan = await front.draining.drain(f"node-{number}", force=False, dry_run=True)
    return {line[:13].strip(): line[13:].strip() for line in _plan_lines(plan)}


# What cannot be moved


async def test_what_cannot_be_read_cannot_be_moved_and_survives_nothing(store: Store) -> None:
    await filled(store)
    front = store.fronts[0]
    for number in (2, 4, 6, 8):
        await store.kill(number)
    plan = await plan_of(front, 3)
    assert plan.segments == plan.unmovable == plan.unreadable > 0
    assert (plan.survives_now, plan.survives_zones_now) == (-1, -1)
    assert (plan.survives, plan.survives_zones, plan.left_s) == (-1, -1, 0)
    words, count = await words_of(front, 3), plan.segments
    assert words["to move"].endswith(
        f"; {count} of them not now: too few of their shards can be read"
    )
    assert words["takes about"] == "nobody knows: nothing can be moved now"
    nothing = f"nothing: {count} segments cannot be read now"
    assert (words["survives now"], words["survives then"]) == (nothing, nothing)
    assert "segments would survive no loss; drain it all" in words["refused"]
    await front.draining.drain("node-3", force=True, dry_run=False)
    left = _left(await front.draining.drain("node-3", force=True, dry_run=True))
    assert f"; {count} of them cannot be moved now" in left


async def test_shards_that_are_known_to_be_bad_cannot_be_read(store: Store) -> None:
    contents = await filled(store)
    front = store.fronts[0]
    manifests = [await front.reads.find(id_) for id_ in contents]
    stored = next(m for m in manifests if m.size_bytes == 100_000).segments[0]
    bad = [index for index, node in enumerate(stored.layout) if node != 3][:4]
    await front.metadata.queue_repair(notice(stored, *bad))
    await front.metadata.save_job_state("repair", MEASURED)
    plan = await plan_of(front, 3)
    assert (plan.unmovable, plan.unreadable) == (1, 1)
    assert (plan.survives_now, plan.survives) == (-1, -1)
    assert plan.left_s == (plan.segments - 1) / 2
    took = f"{plan.left_s:.0f} s for the others, at the measured rate of repair"
    assert (await words_of(front, 3))["takes about"] == took


async def test_what_is_bad_on_the_node_itself_does_not_keep_it_there(store: Store) -> None:
    """It is rebuilt elsewhere, and counts then."""
    contents = await filled(store)
    front = store.fronts[0]
    for id_ in contents:
        for stored in (await front.reads.find(id_)).segments:
            await front.metadata.queue_repair(notice(stored, stored.layout.index(3)))
    plan = await plan_of(front, 3)
    assert (plan.unmovable, plan.unreadable) == (0, 0)
    assert (plan.survives_now, plan.survives) == (2, 2)


async def test_what_lost_nodes_still_give_can_be_moved(store: Store) -> None:
    """Their directories are deleted, but they serve them: repair copies what is on them."""
    await filled(store)
    front = store.fronts[0]
    for number in (2, 4, 6, 8):
        shutil.rmtree(store.nodes[number].path)
    await store.pass_time(2)
    plan = await plan_of(front, 3)
    assert (plan.unmovable, plan.unreadable) == (0, plan.segments)


# What it survives


async def test_who_is_away_counts_among_what_may_fail_then(store: Store) -> None:
    """Seven of nine shards are left; the one that is moved joins another, so that five are left if
    that node fails. Nine shards anew on these six nodes would survive that."""
    await filled(store)
    front = store.fronts[0]
    for number in (8, 9):
        await store.kill(number)
    plan = await plan_of(front, 3)
    assert (plan.others, plan.unmovable, plan.unreadable) == (6, 0, 0)
    assert (plan.survives_now, plan.survives) == (1, 0)
    words = await words_of(front, 3)
    assert words["survives now"] == "the loss of any 1 nodes, of any 0 zones"
    assert words["survives then"] == "the loss of any 0 nodes, of any 0 zones"


async def test_an_empty_store_survives_what_uploads_would(store: Store) -> None:
    plan = await plan_of(store.fronts[0], 3)
    assert (plan.survives_now, plan.survives) == (3, 2)
    assert (plan.segments, plan.unreadable, plan.left_s) == (0, 0, 0)


async def test_it_is_said_and_refused_that_no_zone_may_be_lost_then(zoned: Store) -> None:
    await filled(zoned)
    front = zoned.fronts[0]
    plan = await plan_of(front, 11)
    assert (plan.survives_now, plan.survives_zones_now) == (3, 1)
    assert (plan.survives, plan.survives_zones) == (3, 0)
    lowers = "it lowers the number of zones that may be lost from 1 to 0"
    with pytest.raises(Conflict, match=f"^{lowers}; drain it all the same with --force$"):
        await front.draining.drain("node-11", force=False, dry_run=False)
    assert (await words_of(front, 11))["refused"].startswith(lowers)
    assert front.cluster.membership.nodes[11].row.wish is Wish.ACTIVE
    begun = await front.draining.drain("node-11", force=True, dry_run=False)
    assert any(line.split()[:3] == ["mind", "that", "it"] for line in _plan_lines(begun))
    assert (begun["warning"], begun["objection"]) == (lowers, "")


async def test_one_segment_that_is_lost_hides_not_what_becomes_of_the_others(
    zoned: Store,
) -> None:
    contents = await filled(zoned)
    front = zoned.fronts[0]
    stored = (await front.reads.find(next(iter(contents)))).segments[0]
    await front.metadata.queue_repair(notice(stored, 0, 1, 2, 3))
    assert (await plan_of(front, 11)).survives_zones_now == -1
    with pytest.raises(Conflict, match="from 1 to 0"):
        await front.draining.drain("node-11", force=False, dry_run=False)


async def test_a_drain_that_costs_nothing_is_not_warned_of(zoned: Store) -> None:
    await filled(zoned)
    front = zoned.fronts[0]
    begun = await front.draining.drain("node-1", force=False, dry_run=False)
    assert (begun["survives"], begun["survives_zones"], begun["warning"]) == (3, 1, "")


# How long it takes


def at_rate(front: Front, bytes_per_s: int) -> Draining:
    """As if repair were allowed so much."""
    config = replace(front.services.config, repair_bytes_per_s=bytes_per_s)
    return Draining(replace(front.services, config=config))


async def test_until_it_was_measured_it_is_what_repair_may_do(store: Store) -> None:
    contents = await filled(store)
    front = store.fronts[0]
    node, stored_bytes = front.cluster.membership.nodes[3], sum(map(len, contents.values()))
    for state in ({}, {"bytes_per_s": 0.0, "segments_per_s": 0.0}):
        await front.metadata.save_job_state("repair", state)
        plan = await at_rate(front, 1000).plan(node)
        assert plan.rate_is == "the rate that repair may have"
        assert plan.left_s == pytest.approx(stored_bytes / 1000, rel=0.01)


async def test_each_segment_takes_what_one_has_taken(store: Store) -> None:
    """Small ones too: of 1 MiB each at two a second were mended, and these are smaller."""
    await filled(store)
    front = store.fronts[0]
    await front.metadata.save_job_state("repair", MEASURED)
    plan = await plan_of(front, 3)
    assert (plan.left_s, plan.rate_is) == (plan.segments / 2, "the measured rate of repair")
    words = await words_of(front, 3)
    assert words["takes about"] == f"{plan.left_s:.0f} s, at the measured rate of repair"


async def test_bytes_beyond_those_that_were_measured_take_their_time_too(store: Store) -> None:
    """Of empty segments was learnt only what a segment costs."""
    contents = await filled(store)
    front = store.fronts[0]
    await front.metadata.save_job_state("repair", {"bytes_per_s": 0.1, "segments_per_s": 10.0})
    plan = await at_rate(front, 1000).plan(front.cluster.membership.nodes[3])
    moved_s = sum(map(len, contents.values())) / 1000
    assert plan.left_s == pytest.approx(plan.segments / 10 + moved_s, rel=0.01)


async def test_a_segment_with_two_shards_on_the_node_is_read_once(store: Store) -> None:
    """The four other nodes have the rest of its nine shards."""
    for number in (6, 7, 8, 9):
        await store.kill(number)
    front, data = store.fronts[0], bytes(range(250)) * 400
    stored = (await front.reads.find((await front.put(data)).id)).segments[0]
    node = next(n for n in stored.layout if stored.layout.count(n) == 2)
    plan = await at_rate(front, 1000).plan(front.cluster.membership.nodes[node])
    assert plan.bytes == 2 * stored.shard_bytes
    assert plan.left_s == pytest.approx(len(data) / 1000, rel=0.01)

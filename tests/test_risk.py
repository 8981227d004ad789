"""The mathematics of loss: against figures computed by hand, and against what chance does."""

import math
import random
from dataclasses import replace

import pytest

from coordinator.risk import (
    HOURS_PER_YEAR,
    Assumed,
    Loss,
    any_loss,
    loss_before_repair,
    yearly_loss,
)
from tests.torture.durability import is_lost

PLAIN = Assumed(afr=0.02, rot_per_shard_year=0.0, repair_h=24.0, scrub_h=720.0)


def test_the_rate_of_failure_gives_the_annual_one_back() -> None:
    """−ln 0.98 = 0.0202027; a year of 8766 hours at that rate leaves 98 % alive."""
    assert PLAIN.failures_per_hour == pytest.approx(2.304667e-6, rel=1e-6)
    assert math.exp(-HOURS_PER_YEAR * PLAIN.failures_per_hour) == pytest.approx(0.98)


def test_six_and_three_by_hand() -> None:
    """8766 · 9 · C(8,3) = 4,418,064; λ⁴ = 2.821140e-23; 24³ = 13,824: together 1.722998e-12."""
    loss = yearly_loss(PLAIN, 9, 3)
    assert loss.parallel == pytest.approx(1.723e-12, rel=1e-3)
    assert loss.serial == pytest.approx(1.0338e-11, rel=1e-3)


def test_eleven_nines_need_a_repair_within_a_day() -> None:
    """10⁻¹¹ = 6 · 4,418,064 · 2.821140e-23 · R³, so R = 23.74 hours when shards are rebuilt one
    after another; 6^(1/3) times that when they are rebuilt at once."""

    def loss(repair_h: float) -> Loss:
        return yearly_loss(replace(PLAIN, repair_h=repair_h), 9, 3)

    assert loss(23.7).serial < 1e-11 < loss(24.0).serial
    assert loss(43.1).parallel < 1e-11 < loss(43.2).parallel


def test_rot_adds_to_the_time_that_a_shard_is_away() -> None:
    """c = 8.766e-3 a year is 1e-6 an hour: 1e-6 · (720/2 + 24) = 3.84e-4, beside λR = 5.5312e-5."""
    rotting = replace(PLAIN, rot_per_shard_year=8.766e-3)
    assert rotting.absent == pytest.approx(3.84e-4 + 5.5312e-5, rel=1e-5)
    expected = 8766 * 504 * (2.304667e-6 + 1e-6) * 4.39312e-4**3
    assert yearly_loss(rotting, 9, 3).parallel == pytest.approx(expected, rel=1e-4)


def test_without_spares_the_first_failure_loses() -> None:
    one = yearly_loss(PLAIN, 6, 0)
    assert one.parallel == one.serial == pytest.approx(6 * 0.0202027, rel=1e-5)


def test_what_is_short_may_be_lost_before_it_is_repaired() -> None:
    """Eight left, two may go: C(8,3) · (5.5312e-5)³ = 9.4765e-12."""
    assert loss_before_repair(PLAIN, 8, 2) == pytest.approx(9.4765e-12, rel=1e-4)
    assert loss_before_repair(PLAIN, 6, 0) == pytest.approx(6 * 5.5312e-5, rel=1e-4)
    assert loss_before_repair(PLAIN, 5, -1) == 1.0


def test_segments_on_the_same_nodes_go_together() -> None:
    one = yearly_loss(PLAIN, 9, 3)
    assert any_loss(PLAIN, 9, 3, 9, 1, 1_000_000).serial == pytest.approx(one.serial)


def test_no_more_is_lost_than_when_enough_of_all_nodes_fail() -> None:
    """Twelve nodes have 220 sets of nine, but four of twelve fail in 12 · C(11,3) = 1980 ways, in
    place of the 504 of one set."""
    few, many = any_loss(PLAIN, 9, 3, 12, 2, 1000), any_loss(PLAIN, 9, 3, 12, 220, 1000)
    one = yearly_loss(PLAIN, 9, 3).parallel
    assert few.parallel == pytest.approx(2 * one)
    assert many.parallel == pytest.approx(1980 / 504 * one)


def test_rot_strikes_every_segment_by_itself() -> None:
    rotting = replace(PLAIN, rot_per_shard_year=1e-3)
    more = yearly_loss(rotting, 9, 3).serial - yearly_loss(PLAIN, 9, 3).serial
    lost = any_loss(rotting, 9, 3, 9, 1, 1000).serial
    assert lost == pytest.approx(yearly_loss(PLAIN, 9, 3).serial + 1000 * more)


def test_probabilities_stay_below_one() -> None:
    small = Loss(1e-12, 1e-11).probability()
    assert [small.parallel, small.serial] == pytest.approx([1e-12, 1e-11], rel=1e-9)
    assert Loss(3.0, 1e9).probability().serial == 1.0


def losses_per_year(assumed: Assumed, holders: int, spare: int, serial: bool) -> float:
    """Of many times from the first failure until all is well again, segments are lost in some."""
    random_, excursions = random.Random(20_260), 100_000
    lost = sum(is_lost(random_, assumed, holders, spare, serial) for _ in range(excursions))
    return holders * assumed.failures_per_hour * HOURS_PER_YEAR * lost / excursions


@pytest.mark.parametrize("serial", [False, True])
@pytest.mark.parametrize(
    ("holders", "spare", "afr", "repair_h"),
    [(3, 1, 0.5, 120.0), (6, 2, 0.5, 200.0), (9, 3, 0.9, 120.0)],
)
def test_the_formula_agrees_with_chance(
    holders: int, spare: int, afr: float, repair_h: float, serial: bool
) -> None:
    """With rates so high that losses are seen. The leading order leaves out that fewer nodes are
    there to fail again, and that some have just been rebuilt: some per cent of λR each."""
    assumed = Assumed(afr, 0.0, repair_h, 0.0)
    expected = yearly_loss(assumed, holders, spare)
    seen = losses_per_year(assumed, holders, spare, serial)
    assert seen == pytest.approx(expected.serial if serial else expected.parallel, rel=0.25)

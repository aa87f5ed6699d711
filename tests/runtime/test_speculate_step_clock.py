"""Costs of steps from measurements that may be disturbed."""

import pytest

from csaq_runtime.speculate.step_clock import PRIOR_SLOPE, STALE, StepClock


def measured(*steps: tuple[int, float]) -> StepClock:
    clock = StepClock(9)
    for n_token, seconds in steps:
        clock.observe(n_token, seconds)
    return clock


def test_costs_are_relative_to_plain_steps_and_interpolated() -> None:
    clock = measured((1, 0.1), (3, 0.12), (3, 0.12), (3, 0.12), (7, 0.2), (7, 0.2), (7, 0.2))
    assert clock.plain == 0.1
    assert clock.cost[1:4] == pytest.approx([1, 1.1, 1.2])
    assert clock.cost[5] == pytest.approx(1.6)
    assert clock.cost[9] == pytest.approx(2 + 2 / 6)
    assert len(clock.cost) == 10


def test_unknown_costs_follow_the_first_guess() -> None:
    assert measured((1, 0.1)).cost[5] == pytest.approx(1 + 4 * PRIOR_SLOPE)


def test_single_disturbed_steps_change_nothing() -> None:
    clock = measured(*[(1, 0.1)] * 5, (1, 9.0), (4, 7.0))
    assert clock.plain == 0.1
    assert clock.cost[4] == pytest.approx(1 + 3 * PRIOR_SLOPE)


def test_what_was_not_measured_for_long_is_forgotten() -> None:
    clock = measured((1, 0.1), *[(4, 0.9)] * 3, *[(1, 0.1)] * (STALE + 1))
    assert clock.age(4) == STALE + 1
    assert clock.cost[4] == pytest.approx(9)
    clock.forget_stale()
    assert clock.cost[4] == pytest.approx(1 + 3 * PRIOR_SLOPE)

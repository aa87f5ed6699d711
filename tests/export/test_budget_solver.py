"""The solver finds the optimum of small cases, never overspends, and repeats itself."""

import itertools

from hypothesis import given, settings
from hypothesis import strategies as st

from csaq_export.budget import solver
from csaq_export.budget.solver import Option, solve, total_bytes

options = st.lists(
    st.builds(Option, st.integers(1, 40), st.floats(0, 100, allow_nan=False)),
    min_size=1,
    max_size=4,
)
cases = st.tuples(st.lists(options, min_size=1, max_size=4), st.integers(1, 170))


def cost(tensors, chosen):
    return sum(row[i].cost for row, i in zip(tensors, chosen, strict=True))


def best_cost(tensors, limit):
    every = itertools.product(*(range(len(row)) for row in tensors))
    return min((cost(tensors, c) for c in every if total_bytes(tensors, c) <= limit), default=None)


@given(cases)
@settings(max_examples=200, deadline=None)
def test_small_cases_are_solved_exactly(case):
    tensors, limit = case
    chosen, best = solve(tensors, limit), best_cost(tensors, limit)
    if best is None:
        assert chosen is None
        return
    assert chosen is not None
    assert total_bytes(tensors, chosen) <= limit
    assert abs(cost(tensors, chosen) - best) < 1e-9 * max(1.0, best)
    assert solve(tensors, limit) == chosen


@given(cases)
@settings(max_examples=100, deadline=None)
def test_coarse_units_still_fit_and_stay_sensible(case):
    tensors, limit = case
    whole = solver.MAX_UNITS
    try:
        solver.MAX_UNITS = 8
        chosen = solve(tensors, limit)
    finally:
        solver.MAX_UNITS = whole
    assert (chosen is None) == (best_cost(tensors, limit) is None)
    if chosen is not None:
        assert total_bytes(tensors, chosen) <= limit


def test_more_room_never_costs_more():
    ladder = [Option(10 * bits, 4.0**-bits) for bits in range(2, 9)]
    tensors = [[Option(o.n_bytes, o.cost * weight) for o in ladder] for weight in (1, 5, 25, 2)]
    costs = [cost(tensors, solve(tensors, limit)) for limit in range(80, 330, 10)]
    assert costs == sorted(costs, reverse=True)
    assert len(set(costs)) > 15

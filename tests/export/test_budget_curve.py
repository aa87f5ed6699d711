"""Curves: exact bytes, costs that fall with size, and the filters on them."""

import pytest
import torch

from csaq_export.budget.curve import LADDER, SMALL_BLOCK_LADDER, ladder, measure_curve
from csaq_export.quantize import GRID_FORMATS
from csaq_export.sensitivity import Sensitivity, Term
from csaq_runtime.formats import LAYOUTS, GGMLType, row_bytes

T = GGMLType


@pytest.fixture(scope="module")
def curve():
    weight = torch.randn(300, 256, generator=torch.Generator().manual_seed(1))
    return measure_curve("w", weight, Sensitivity((Term(torch.eye(256), torch.ones(300)),)), LADDER)


def test_bytes_are_those_of_the_whole_tensor(curve):
    for ggml_type, option in zip(curve.types, curve.options, strict=True):
        exact = 300 * row_bytes(ggml_type, 256)
        assert exact <= option.n_bytes < exact + 32


def test_larger_types_cost_less(curve):
    """Among types without codebooks; those are better than their size."""
    costs = [option.cost for option in curve.without_codebooks().options]
    assert costs == sorted(costs, reverse=True)
    assert costs[-1] < 1e-3 * costs[0]


def test_filters_leave_what_they_promise(curve):
    assert curve.at_least(T.Q4_K).types == (T.Q4_K, T.Q5_K, T.Q6_K, T.Q8_0)
    assert not set(curve.without_codebooks().types) & set(GRID_FORMATS)
    assert curve.at_least(T.F16).types == (T.Q8_0,)


def test_cost_scales(curve):
    doubled = curve.scaled(2.0)
    assert [o.cost for o in doubled.options] == [2 * o.cost for o in curve.options]
    assert [o.n_bytes for o in doubled.options] == [o.n_bytes for o in curve.options]


@pytest.mark.parametrize(
    ("n_col", "expected"), [(512, LADDER), (96, SMALL_BLOCK_LADDER), (40, (T.F16,))]
)
def test_ladder_fits_the_rows(n_col, expected):
    assert ladder(n_col) == expected
    assert all(n_col % LAYOUTS[t].block_size == 0 for t in expected)

from itertools import pairwise

import pytest
import torch

from csaq_export.hf.clique_budget import (
    INDEX_BYTES,
    rows_to_budget,
    solve_cliques,
)
from csaq_export.hf.tier import tier_type
from csaq_runtime.errors import UsageError
from csaq_runtime.formats import GGMLType, row_bytes

N_ROW, N_COL = 200, 512
N_WEIGHT = 2 * N_ROW * N_COL


@pytest.fixture(scope="module")
def matrices():
    chance = torch.Generator().manual_seed(0)
    labels = torch.randint(-40, 15, (2, N_ROW), generator=chance).clamp(min=-1)
    salience = torch.rand(2, N_ROW, generator=chance).exp().pow(4)
    return {n: rows_to_budget(labels[i], salience[i], N_COL) for i, n in enumerate("ab")}


def n_bytes(budget):
    return sum(
        len(clique.rows) * (INDEX_BYTES + row_bytes(tier_type(clique.bits, N_COL), N_COL))
        for cliques in budget.values()
        for clique in cliques
    )


def row_bits(budget):
    found = torch.zeros(2, N_ROW, dtype=torch.long)
    for index, name in enumerate("ab"):
        for clique in budget[name]:
            found[index, list(clique.rows)] = clique.bits
    return found


@pytest.mark.parametrize("bpw", [3.2, 4.0, 5.0, 8.0, 12.5])
def test_the_target_is_met_and_never_exceeded(matrices, bpw):
    limit = int(bpw * N_WEIGHT / 8)
    found = 8 * n_bytes(solve_cliques(matrices, (2, 4, 8, 16), limit, 0.0)) / N_WEIGHT
    # 256 bytes, the step of a row from 4 to 8 bits, are 0.01 bits here.
    assert bpw - 0.01 < found <= bpw


def test_every_row_gets_bits_of_the_options_and_cliques_stay_together(matrices):
    budget = solve_cliques(matrices, (4, 8), 5 * N_WEIGHT // 8, 0.1)
    assert set(row_bits(budget).flatten().tolist()) == {4, 8}
    for name, matrix in matrices.items():
        assert [c.rows for c in budget[name]] == [c.rows for c in matrix.cliques]


def test_the_most_salient_rows_are_protected(matrices):
    budget = solve_cliques(matrices, (2, 4, 8, 16), 4 * N_WEIGHT // 8, 0.2)
    units = sorted(
        (clique for cliques in budget.values() for clique in cliques),
        key=lambda clique: -clique.salience / len(clique.rows),
    )
    seen = 0
    for clique in units:
        seen += len(clique.rows)
        if seen > 0.2 * 2 * N_ROW:
            break
        assert clique.bits >= 8


def test_more_salient_cliques_of_one_size_never_get_fewer_bits(matrices):
    budget = solve_cliques(matrices, (2, 4, 8, 16), 5 * N_WEIGHT // 8, 0.1)
    single = [c for cliques in budget.values() for c in cliques if len(c.rows) == 1]
    bits = [clique.bits for clique in sorted(single, key=lambda clique: clique.salience)]
    assert len(single) > 100
    assert sum(a > b for a, b in pairwise(bits)) <= 2  # the last that fit


def test_too_small_a_target_is_refused_with_the_arithmetic(matrices):
    with pytest.raises(UsageError, match=r"4.000 bits.*4-bit rows.*10 % .*0.062 bits.*take 4.9"):
        solve_cliques(matrices, (4, 8), 4 * N_WEIGHT // 8, 0.1)


def test_equal_inputs_give_equal_bits(matrices):
    budgets = [solve_cliques(dict(order), (2, 4, 8), 3 * N_WEIGHT // 8, 0.0)
               for order in (list(matrices.items()), list(matrices.items())[::-1])]  # fmt: skip
    assert budgets[0] == budgets[1]


def test_types_follow_from_bits_and_row_length():
    assert [tier_type(bits, 512) for bits in (16, 8, 4, 2)] == [
        GGMLType.F16, GGMLType.Q8_0, GGMLType.Q4_K, GGMLType.Q2_K,
    ]  # fmt: skip
    assert [tier_type(bits, 96) for bits in (8, 4, 2)] == [
        GGMLType.Q8_0, GGMLType.Q4_0, GGMLType.Q4_0,
    ]  # fmt: skip
    assert {tier_type(bits, 33) for bits in (16, 8, 4, 2)} == {GGMLType.F16}


def test_widths_that_take_the_same_bytes_are_one():
    matrix = rows_to_budget(torch.full((8,), -1), torch.arange(8.0), 96)
    budget = solve_cliques({"a": matrix}, (2, 4, 8), 8 * (INDEX_BYTES + 54), 0.0)
    assert {clique.bits for clique in budget["a"]} == {4}

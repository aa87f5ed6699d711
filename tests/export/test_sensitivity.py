"""The cost of an error is what its definition says; groups cover rows; shrinkage is bounded."""

from itertools import pairwise

import torch

from csaq_export.sensitivity import Sensitivity, Term, shrunk


def positive(n, seed):
    x = torch.randn(3 * n, n, generator=torch.Generator().manual_seed(seed))
    return x.T @ x / (3 * n)


def two_terms(n_row=20, n_col=8):
    generator = torch.Generator().manual_seed(1)
    weights = torch.rand(2, n_row, generator=generator)
    return Sensitivity(tuple(Term(positive(n_col, i), weights[i]) for i in range(2)))


def test_loss_is_half_the_quadratic_form_of_every_row():
    sensitivity = two_terms()
    change = torch.randn(20, 8, generator=torch.Generator().manual_seed(2))
    expected = sum(
        0.5 * term.row_weight[i] * change[i] @ term.curvature @ change[i]
        for term in sensitivity.terms
        for i in range(20)
    )
    torch.testing.assert_close(torch.tensor(sensitivity.loss(change)), expected)
    rows = torch.tensor([3, 7])
    part = sensitivity.of_rows(rows).loss(change[rows])
    assert 0 < part < sensitivity.loss(change)


def test_groups_cover_every_row_once_and_follow_the_mixture():
    sensitivity = two_terms()
    groups = sensitivity.groups()
    assert sorted(torch.cat([rows for rows, _ in groups]).tolist()) == list(range(20))
    first, second = (t.row_weight * torch.diagonal(t.curvature).mean() for t in sensitivity.terms)
    shares = [(first / (first + second))[rows] for rows, _ in groups]
    assert all(a.max() <= b.min() for a, b in pairwise(shares))


def test_one_term_is_one_group():
    term = Term(positive(8, 0), torch.rand(5))
    ((rows, curvature),) = Sensitivity((term,)).groups()
    assert rows.tolist() == list(range(5))
    assert torch.equal(curvature, term.curvature)


def test_shrinking_keeps_the_diagonal_and_fades_with_more_tokens():
    curvature = positive(16, 3)
    few, many = shrunk(curvature, 10.0), shrunk(curvature, 1e9)
    torch.testing.assert_close(torch.diagonal(few), torch.diagonal(curvature))
    torch.testing.assert_close(many, curvature)
    off = ~torch.eye(16, dtype=torch.bool)
    assert few[off].abs().sum() < 0.2 * curvature[off].abs().sum()
    assert bool((torch.linalg.eigvalsh(few) > 0).all())

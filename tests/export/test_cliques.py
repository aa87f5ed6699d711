"""Cliques follow co-activation: planted groups are found, thresholds and counts bind."""

import pytest
import torch

from csaq_export.cliques import SINGLETON, cliques_by_count, find_cliques, jaccard


def planted(n_group, size, n_token=400, noise=0.0, seed=0):
    """Counts of rows that fire together in groups, shuffled; and the true group of each row."""
    generator = torch.Generator().manual_seed(seed)
    fires = (torch.rand(n_token, n_group, generator=generator) < 0.2).float()
    groups = torch.arange(n_group).repeat_interleave(size)
    groups = groups[torch.randperm(len(groups), generator=generator)]
    rows = fires[:, groups]
    flips = torch.rand(rows.shape, generator=generator) < noise
    rows = torch.where(flips, 1 - rows, rows)
    return rows.T @ rows, groups


def same_partition(labels, groups):
    return all(
        len(set(part.tolist())) == 1
        for one, other in ((labels, groups), (groups, labels))
        for value in one.unique()
        for part in [other[one == value]]
    )


@pytest.mark.parametrize("size", [2, 5, 16])
def test_planted_groups_are_found_exactly(size):
    counts, groups = planted(12, size, noise=0.005)
    found = find_cliques(counts, 0.7)
    assert same_partition(found.labels, groups)
    assert found.histogram() == {size: 12}
    assert found.n_clique == 12


def test_rows_on_their_own_stay_single():
    counts, _ = planted(20, 1)
    found = find_cliques(counts, 0.85)
    assert found.labels.tolist() == [SINGLETON] * 20
    assert found.histogram() == {1: 20}
    assert found.n_clique == 0


def test_jaccard_counts_tokens():
    fires = torch.tensor([[1.0, 1, 0, 0], [1, 0, 1, 0], [0, 0, 0, 0]])
    similarity = jaccard(fires @ fires.T, slice(0, 3))
    torch.testing.assert_close(similarity, torch.tensor([[1, 1 / 3, 0], [1 / 3, 1, 0], [0, 0, 0]]))


def test_lower_thresholds_give_larger_cliques():
    counts, _ = planted(10, 4, noise=0.1)
    groups = [sum(find_cliques(counts, t).histogram().values()) for t in (0.2, 0.5, 0.8, 0.99)]
    assert groups == sorted(groups)
    assert groups[0] < groups[-1]


def test_every_member_is_similar_to_its_leader():
    counts, _ = planted(10, 4, noise=0.1, seed=3)
    found = find_cliques(counts, 0.5)
    similar = jaccard(counts, slice(None)) >= 0.5
    for clique in range(found.n_clique):
        members = (found.labels == clique).nonzero()[:, 0]
        assert any(bool(similar[leader, members].all()) for leader in members)


@pytest.mark.parametrize("n_group", [1, 5, 12, 30])
def test_a_target_count_is_kept(n_group):
    counts, _ = planted(12, 4, noise=0.02)
    found = cliques_by_count(counts, n_group)
    assert sum(found.histogram().values()) <= n_group

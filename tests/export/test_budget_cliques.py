"""The solver behind rows of mixed width, by hand-made cliques."""

import numpy as np

from csaq_export.budget.cliques import Clique, lift_large, most_salient, protected_level, solve


def test_upgrades_go_where_they_save_most_and_fit():
    steep, flat = Clique((1, 3), (9.0, 0.0)), Clique((1, 3), (3.0, 0.0))
    assert solve([flat, steep], 4) == [0, 1]
    assert solve([flat, steep], 6) == [1, 1]
    assert solve([flat, steep], 1) is None
    assert solve([Clique((1, 3), (1.0, 0.0), least=1), steep], 5) == [1, 0]


def test_a_step_that_only_pays_further_up_is_not_missed():
    late = Clique((1, 2, 3), (9.0, 8.9, 0.0))
    assert solve([late], 3) == [2]


def test_a_step_that_does_not_fit_gives_way_to_a_smaller_one():
    far = Clique((1, 2, 9), (9.0, 8.9, 0.0))
    assert solve([far], 8) == [1]
    assert solve([far], 9) == [2]


def test_what_is_left_is_less_than_the_smallest_step_that_saves():
    chance = np.random.default_rng(0)
    cliques = [
        Clique(tuple(int(n) * size for size in (3, 5, 9)), (1.0, float(low), 0.0))
        for n, low in zip(chance.integers(1, 9, 200), chance.random(200), strict=True)
    ]
    for limit in (2900, 4000, 6000):
        levels = solve(cliques, limit)
        left = limit - sum(c.n_bytes[i] for c, i in zip(cliques, levels, strict=True))
        steps = [
            c.n_bytes[i + 1] - c.n_bytes[i]
            for c, i in zip(cliques, levels, strict=True)
            if i + 1 < len(c.cost)
        ]
        assert 0 <= left < min(steps)


def test_small_steps_do_not_shut_out_a_large_one_that_saves_more_than_all_of_them():
    large, small = Clique((100, 200), (90.0, 0.0)), Clique((10, 11), (1.0, 0.0))
    cliques = [small, large, small]
    assert solve(cliques, 221) == [1, 0, 1]
    assert solve(lift_large(cliques, 221), 221) == [1, 1, 0]
    assert lift_large(cliques, 219) == cliques
    assert lift_large([small] * 60, 650) == [small] * 60


def test_the_most_salient_are_taken_while_they_fit_into_the_share():
    assert most_salient([4, 1, 5], [1.0, 3.0, 2.0], 0.6) == {1, 2}
    assert most_salient([4, 1, 5], [1.0, 3.0, 2.0], 0.5) == {1}
    assert most_salient([4, 1, 5], [1.0, 3.0, 2.0], 0.0) == set()


def test_protection_is_8_bits_or_the_most_there_are():
    assert protected_level((2, 4, 16)) == 2
    assert protected_level((2, 8, 16)) == 1
    assert protected_level((2, 4)) == 1

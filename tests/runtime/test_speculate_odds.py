"""Learnt chances of drafted tokens."""

from csaq_runtime.speculate.odds import N_BIN, Odds, confidence_bin


def test_what_is_observed_outweighs_the_first_guess() -> None:
    odds = Odds([0.9, 0.9])
    for _ in range(60):
        odds.observe(0, False)
    assert odds.of(0) < 0.1
    assert odds.of(1) == 0.9


def test_what_was_long_ago_is_forgotten() -> None:
    odds = Odds([0.5])
    for hit in [True] * 300 + [False] * 100:
        odds.observe(0, hit)
    assert odds.of(0) < 0.1


def test_the_last_bin_stands_for_all_after_it() -> None:
    odds = Odds([0.5, 0.5])
    for _ in range(50):
        odds.observe(9, True)
    assert odds.of(7) == odds.of(1) > 0.9


def test_confidence_is_first_taken_at_its_word() -> None:
    odds = Odds.by_confidence()
    chances = [odds.of(confidence_bin(c / 20)) for c in range(21)]
    assert chances == sorted(chances)
    assert all(chance < c / 20 + 1 / N_BIN for c, chance in enumerate(chances))
    assert confidence_bin(1.0) == N_BIN - 1

"""The bound on what drafting may lose."""

import numpy as np

from csaq_runtime.speculate.credit import MOST, SHARE, START, Credit

PLAIN = 0.01


def test_nothing_is_covered_before_a_step_was_measured() -> None:
    assert not Credit().covers(PLAIN / 100)


def test_the_total_loss_stays_below_the_share_and_the_start() -> None:
    random, credit, worth, spent = np.random.default_rng(0), Credit(), 0.0, 0.0
    credit.settle(PLAIN, PLAIN, PLAIN)
    for _ in range(3000):
        loss = float(random.uniform(0, 2)) * PLAIN
        step = PLAIN + loss * credit.covers(loss)
        credit.settle(step, PLAIN, PLAIN)
        worth, spent = worth + PLAIN, spent + step
        assert spent <= worth * (1 + SHARE) + START * PLAIN + 1e-9
    assert spent > worth * (1 + SHARE / 2)


def test_old_gains_do_not_pay_for_long_losses() -> None:
    credit = Credit()
    for _ in range(1000):
        credit.settle(PLAIN, 3 * PLAIN, PLAIN)
    assert credit.covers(MOST * PLAIN)
    assert not credit.covers(MOST * PLAIN * 1.01)

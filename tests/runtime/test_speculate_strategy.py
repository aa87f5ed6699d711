"""A drafter that is asked the same at every step."""

from collections.abc import Sequence

import numpy as np
import pytest
from numpy.typing import NDArray

from csaq_runtime.sample import Sampler, Sampling
from csaq_runtime.speculate.drafter import Draft
from csaq_runtime.speculate.strategy import Fixed


class Counting:
    name = "counting"

    def __init__(self, wants_hidden: bool) -> None:
        self.wants_hidden = wants_hidden
        self.calls: list[tuple[int, object]] = []

    def begin(self, sampler: Sampler) -> None:
        self.sampler = sampler

    def propose(self, context: Sequence[int], n: int, hidden: NDArray[np.float32] | None) -> Draft:
        self.calls.append((n, hidden))
        return Draft(list(range(n + 3)))


@pytest.mark.parametrize("wants_hidden", [False, True])
def test_the_drafter_is_asked_for_what_fits_and_cut_to_it(wants_hidden: bool) -> None:
    drafter, states = Counting(wants_hidden), np.zeros((1, 4), np.float32)
    fixed = Fixed(drafter, 5)
    fixed.begin(Sampler(Sampling()))
    drafts = [fixed.draft([1], n, lambda: states) for n in (9, 3, 0)]
    assert [list(draft.ids) for draft in drafts] == [[0, 1, 2, 3, 4], [0, 1, 2], []]
    hidden = states if wants_hidden else None
    assert drafter.calls == [(5, hidden), (3, hidden)]

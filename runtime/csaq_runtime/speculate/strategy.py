"""Who drafts, and how far: what a decoder asks before each step and tells after it."""

from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from csaq_runtime.sample import Sampler
from csaq_runtime.speculate.drafter import Draft, Drafter

State = Callable[[], NDArray[np.float32]]
"""Computes the hidden state that `Drafter.propose` takes."""


class Strategy(Protocol):
    """Decides on the draft of every step."""

    @property
    def plain_seconds(self) -> float:
        """What a step without a draft takes, as far as known; else 0."""
        ...

    def begin(self, sampler: Sampler) -> None:
        """A reply begins; see `Drafter.begin`."""

    def draft(self, context: Sequence[int], n: int, state: State) -> Draft:
        """What to check in the next step: at most `n` tokens, `n` ≥ 0."""
        ...

    def learn(self, tokens: Sequence[int], draft_seconds: float, step_seconds: float) -> None:
        """What came of the last draft: the tokens that followed, and the time it all took."""


class Fixed:
    """One drafter, always asked for the same number of tokens."""

    plain_seconds = 0.0

    def __init__(self, drafter: Drafter, n_draft: int) -> None:
        self._drafter, self._n_draft = drafter, n_draft

    def begin(self, sampler: Sampler) -> None:
        """Pass on that a reply begins."""
        self._drafter.begin(sampler)

    def draft(self, context: Sequence[int], n: int, state: State) -> Draft:
        """The drafter's draft."""
        n = min(n, self._n_draft)
        if n < 1:
            return Draft()
        hidden = state() if self._drafter.wants_hidden else None
        return self._drafter.propose(context, n, hidden).first(n)

    def learn(self, tokens: Sequence[int], draft_seconds: float, step_seconds: float) -> None:
        """Nothing is learnt."""

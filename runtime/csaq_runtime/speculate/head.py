"""Drafts by a trained head: one narrow layer on the model's state (`csaq draft` makes it).

It attends to the keys and values of the model's last layer, its own of the drafted tokens behind
them; the step that checks the draft overwrites these. All tokens of a draft are made in one call
into the kernels, the likeliest one each time.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from csaq_runtime.cache import KVCache
from csaq_runtime.sample import Sampler
from csaq_runtime.speculate.drafter import Draft
from csaq_runtime.speculate.head_file import Head
from csaq_runtime.step import Stepper
from csaq_runtime.threads import ThreadPool

LEAST = 0.3
"""Chance of a whole draft, by the head's own account, below which it ends."""


class HeadDrafter:
    """Goes on from the model's last state."""

    name, wants_hidden = "head", True

    def __init__(self, head: Head, cache: KVCache, pool: ThreadPool, n_most: int) -> None:
        self._head, self._cache = head, cache.of_layer(-1)
        self._stepper = Stepper(head.model, self._cache, pool, 1, n_most, head.choices)

    def follow(self, cache: KVCache) -> None:
        """The sequence to draft for is in `cache` now."""
        self._cache = cache.of_layer(-1)

    def begin(self, sampler: Sampler) -> None:
        """The next context may be any; nothing is drawn by chance."""

    def propose(self, context: Sequence[int], n: int, hidden: NDArray[np.float32] | None) -> Draft:
        """The likeliest tokens, one after another, as long as they are likely together."""
        assert hidden is not None
        head, room = self._head, self._cache.n_ctx - self._cache.n_past
        n = min(n, self._stepper.n_output, room)
        if n < 1:
            return Draft()
        x = hidden * head.choices.state_scale + head.token_input(context[-1])
        choices, sureness = self._stepper.run_passes(self._cache, x, n, LEAST)
        # Weights that are no numbers make drafts that are worth nothing, and do no other harm.
        confidence = [sure if sure == sure else 0.0 for sure in sureness.tolist()]
        return Draft(head.ids[choices].tolist(), None, confidence)

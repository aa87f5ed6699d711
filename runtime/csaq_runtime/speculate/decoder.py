"""One reply as it grows: draft, check all drafted tokens in one step, keep what stands.

The step writes keys and values of all drafted positions; those that do not stand are rolled back.
"""

from collections import deque
from collections.abc import Collection, Sequence
from itertools import islice

import numpy as np
from numpy.typing import NDArray

from csaq_runtime.batch import Span
from csaq_runtime.cache import KVCache
from csaq_runtime.sample import Sampler
from csaq_runtime.speculate.drafter import MAX_HIDDEN, Draft, Drafter
from csaq_runtime.speculate.verify import verified
from csaq_runtime.step import Stepper


class Decoder:
    """Makes the tokens of one reply. `cache` holds all of its context but the last token."""

    def __init__(
        self,
        stepper: Stepper,
        cache: KVCache,
        sampler: Sampler,
        stops: Collection[int],
        drafter: Drafter | None = None,
        n_max: int = 0,
    ) -> None:
        self._stepper, self._cache, self._sampler, self._stops = stepper, cache, sampler, stops
        self._drafter, self._n_max = drafter, n_max
        self._hidden: deque[NDArray[np.float32]] = deque(maxlen=MAX_HIDDEN)
        if drafter is not None:
            drafter.begin(sampler.spawn())

    def first(self, logits: NDArray[np.float32], context: Sequence[int]) -> int:
        """The reply's first token, from the logits [n_vocab] that the prompt gave just now."""
        self._remember(1)
        return self._sampler.sample(logits, context)

    def advance(self, context: Sequence[int], n_most: int) -> list[int]:
        """Up to `n_most` tokens, at least one, that follow `context`; a stop is the last."""
        draft, n_past = self._draft(context, n_most), self._cache.n_past
        ids = [context[-1], *draft.ids]
        logits = self._stepper.run([Span(self._cache, ids, len(ids))])
        tokens = verified(logits, draft, self._sampler, context, self._stops)
        self._cache.truncate(n_past + len(tokens))
        self._remember(len(tokens))
        return tokens

    def _draft(self, context: Sequence[int], n_most: int) -> Draft:
        room = min(n_most, self._stepper.n_output, self._cache.n_ctx - self._cache.n_past) - 1
        n = min(self._n_max, room)
        if self._drafter is None or n < 1:
            return Draft()
        hidden = None
        if self._drafter.wants_hidden:
            hidden = np.stack(self._hidden)
            self._hidden.clear()
        return self._drafter.propose(context, n, hidden).first(n)

    def _remember(self, n: int) -> None:
        """Keep the states of the last step's first `n` outputs for the drafter."""
        if self._drafter is not None and self._drafter.wants_hidden:
            self._hidden.extend(islice(self._stepper.hidden(), n))

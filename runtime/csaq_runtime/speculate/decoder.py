"""One reply as it grows: draft, check all drafted tokens in one step, keep what stands.

The step writes keys and values of all drafted positions; those that do not stand are rolled back.
"""

import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from csaq_runtime.batch import Span
from csaq_runtime.cache import KVCache
from csaq_runtime.sample import Sampler
from csaq_runtime.speculate.drafter import NOTHING, Draft
from csaq_runtime.speculate.strategy import Strategy
from csaq_runtime.speculate.verify import verified
from csaq_runtime.step import Stepper


@dataclass
class Tally:
    """Steps of a reply, the tokens drafted for them, and those that stood.

    `plain_seconds`: what all tokens would have taken one by one; 0: not known.
    """

    n_step: int = 0
    n_drafted: int = 0
    n_accepted: int = 0
    plain_seconds: float = 0.0

    def count(self, draft: Draft, tokens: Sequence[int], seconds: float, plain: float) -> None:
        """A step of `seconds` made `tokens`; `plain`: seconds of one without a draft, if known."""
        self.n_step += 1
        if draft.ids:
            self.n_drafted += len(draft.ids)
            self.n_accepted += len(tokens) - 1
            self.plain_seconds += len(tokens) * plain
        elif plain:
            self.plain_seconds += seconds


class Decoder:
    """Makes the tokens of one reply. `cache` holds all of its context but the last token."""

    def __init__(
        self,
        stepper: Stepper,
        cache: KVCache,
        sampler: Sampler,
        stops: Collection[int],
        strategy: Strategy | None = None,
    ) -> None:
        self.tally = Tally()
        self._stepper, self._cache, self._sampler, self._stops = stepper, cache, sampler, stops
        self._strategy = strategy
        self._n_kept = 1
        if strategy is not None:
            strategy.begin(sampler.spawn())

    def first(self, logits: NDArray[np.float32], context: Sequence[int]) -> int:
        """The reply's first token, from the logits [n_vocab] that the prompt gave just now."""
        self._n_kept = 1
        return self._sampler.sample(logits, context)

    def advance(self, context: Sequence[int], n_most: int) -> list[int]:
        """Up to `n_most` tokens, at least one, that follow `context`; a stop is the last."""
        strategy = self._strategy
        if strategy is None:
            return self._step(context, NOTHING)
        started = time.perf_counter()
        room = min(n_most, self._stepper.n_output, self._cache.n_ctx - self._cache.n_past)
        draft = strategy.draft(context, room - 1, self._hidden)
        drafted = time.perf_counter()
        tokens = self._step(context, draft)
        seconds = time.perf_counter() - drafted
        strategy.learn(tokens, drafted - started, seconds)
        self.tally.count(draft, tokens, seconds, strategy.plain_seconds)
        return tokens

    def _step(self, context: Sequence[int], draft: Draft) -> list[int]:
        ids, n_past = [context[-1], *draft.ids], self._cache.n_past
        logits = self._stepper.run([Span(self._cache, ids, len(ids))])
        tokens = verified(logits, draft, self._sampler, context, self._stops)
        self._cache.truncate(n_past + len(tokens))
        self._n_kept = len(tokens)
        return tokens

    def _hidden(self) -> NDArray[np.float32]:
        """The state that the last token was drawn from."""
        return self._stepper.hidden(self._n_kept - 1)

"""Drafts by the model itself, from the upper plane of its weights: about a third or half the bytes.

Keys and values of a draft go where those of the step that checks it will go, which overwrites
them: nothing of a draft is ever attended to by what is kept.
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from csaq_runtime.batch import Span
from csaq_runtime.cache import KVCache
from csaq_runtime.model import Linear, Model
from csaq_runtime.rows.linear import MixedLinear
from csaq_runtime.sample import Candidates, Sampler
from csaq_runtime.speculate.drafter import Draft
from csaq_runtime.speculate.odds import Odds, confidence_bin
from csaq_runtime.step import Stepper
from csaq_runtime.threads import ThreadPool

LEAST = 0.7
"""Chance of a whole draft below which no token is added: each costs half a step."""


class PlanesDrafter:
    """Decodes a few tokens with the upper plane of `model`, whose sequence is in `cache`."""

    name, wants_hidden = "planes", False

    def __init__(self, model: Model, cache: KVCache, pool: ThreadPool) -> None:
        self._stepper, self._cache = Stepper(upper_model(model), cache, pool, 1, 1), cache
        self._odds = Odds.by_confidence()
        self._last, self._n_context = Draft(), 0

    def follow(self, cache: KVCache) -> None:
        """The sequence to draft for is in `cache` now."""
        self._cache = cache

    def begin(self, sampler: Sampler) -> None:
        """The next context may be any."""
        self._sampler, self._last = sampler, Draft()

    def propose(self, context: Sequence[int], n: int, hidden: NDArray[np.float32] | None) -> Draft:
        """Up to `n` tokens, as long as all of them are likely to stand; drawn as the reply is."""
        self._learn(context)
        n_past, ids = self._cache.n_past, list(context)
        drawn_from: list[Candidates] = []
        confidence: list[float] = []
        stands, room = 1.0, self._cache.n_ctx - n_past
        while len(confidence) < min(n, room) and stands >= LEAST:
            logits = self._stepper.run([Span(self._cache, ids[-1:], 1)])[0]
            if not np.isfinite(logits.max()):
                break
            drawn_from.append(self._sampler.candidates(logits, ids))
            ids.append(self._sampler.draw(drawn_from[-1]))
            confidence.append(likeliest(logits))
            stands *= self._odds.of(confidence_bin(confidence[-1]))
        self._cache.truncate(n_past)
        is_greedy = self._sampler.sampling.temperature <= 0
        drafted = ids[len(context) :]
        self._last = Draft(drafted, None if is_greedy else drawn_from, confidence)
        self._n_context = len(context)
        return self._last

    def _learn(self, context: Sequence[int]) -> None:
        """Compare the last draft with what came, up to the first token that differs."""
        came = context[self._n_context :]
        for guess, sure, token in zip(self._last.ids, self._last.confidence, came, strict=False):
            self._odds.observe(confidence_bin(sure), guess == token)
            if guess != token:
                return


def likeliest(logits: NDArray[np.float32]) -> float:
    """Probability of the largest logit; it does not depend on what is drawn."""
    return float(1 / np.exp(logits - logits.max()).sum())


def upper_model(model: Model) -> Model:
    """The same memory as a model whose matrices are the upper planes, where there are two."""
    layers = [
        replace(layer, linears={name: _upper(linear) for name, linear in layer.linears.items()})
        for layer in model.layers
    ]
    return replace(model, layers=layers, output=_upper(model.output))


def _upper(linear: Linear | MixedLinear) -> Linear | MixedLinear:
    if isinstance(linear, Linear):
        return replace(linear, matrix=linear.matrix.upper)
    return replace(linear, parts=tuple(part.upper for part in linear.parts))

"""Sampling: one row of logits → the next token id.

Order and defaults are llama.cpp's (`common/common.h`, `src/llama-sampler.cpp`): biases, penalties,
top-k, top-p, min-p, temperature, draw. Each filter works on the candidates the one before left.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from csaq_runtime.errors import ModelError, UsageError

CHUNK = 64
_NUMBERS = (
    "temperature",
    "top_p",
    "min_p",
    "repeat_penalty",
    "presence_penalty",
    "frequency_penalty",
)


@dataclass(frozen=True)
class Sampling:
    """What decides a draw. `temperature` 0 is greedy; `top_k` 0, `top_p` 1 and `min_p` 0 are off.

    `repeat_last_n` counts tokens, -1 means the whole context; all penalties look back so far.
    `logit_bias` is added to the logits of those ids. `seed` None takes fresh entropy.
    """

    temperature: float = 0.8
    top_k: int = 40
    top_p: float = 0.95
    min_p: float = 0.05
    repeat_penalty: float = 1.0
    repeat_last_n: int = 64
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    logit_bias: tuple[tuple[int, float], ...] = ()
    seed: int | None = None

    def __post_init__(self) -> None:
        for name in _NUMBERS:
            if not np.isfinite(getattr(self, name)):
                raise UsageError(f"{name} must be a finite number")
        if self.repeat_penalty <= 0:
            raise UsageError(f"repeat_penalty must be above 0, not {self.repeat_penalty}")
        if self.repeat_last_n < -1:
            raise UsageError(f"repeat_last_n must be -1 or more, not {self.repeat_last_n}")
        if self.seed is not None and self.seed < 0:
            raise UsageError(f"seed must be 0 or more, not {self.seed}")


@dataclass(frozen=True)
class Candidates:
    """What a token is drawn from: `ids` int64 [n], each once, and their `probabilities` [n]."""

    ids: NDArray[np.int64]
    probabilities: NDArray[np.float64]

    def probability(self, token: int) -> float:
        """That of one id, 0 if it is no candidate."""
        return float(self.probabilities[self.ids == token].sum())


class Sampler:
    """Draws token ids; two samplers with the same seed draw the same ids from the same logits."""

    def __init__(self, sampling: Sampling, random: "np.random.Generator | None" = None) -> None:
        self.sampling, self._given = sampling, random

    @cached_property
    def _random(self) -> "np.random.Generator":
        """Made at the first draw: its import takes long, and greedy replies never draw."""
        return self._given or np.random.default_rng(self.sampling.seed)

    @property
    def _is_greedy(self) -> bool:
        return self.sampling.temperature <= 0

    def spawn(self) -> "Sampler":
        """A sampler of the same settings whose draws are independent of this one's."""
        return self if self._is_greedy else Sampler(self.sampling, self._random.spawn(1)[0])

    def sample(self, logits: NDArray[np.float32], context: Sequence[int]) -> int:
        """Id drawn from `logits` [n_vocab]; `context` are the ids so far, prompt included."""
        return self.draw(self.candidates(logits, context))

    def uniform(self) -> float:
        """A number drawn from [0, 1)."""
        return float(self._random.random())

    def draw(self, candidates: Candidates) -> int:
        """One of the candidates, by chance; the likeliest at temperature 0."""
        ids = candidates.ids
        if self._is_greedy:
            return int(ids[0])
        cumulative = np.cumsum(candidates.probabilities)
        drawn = np.searchsorted(cumulative, self.uniform() * cumulative[-1], side="right")
        return int(ids[min(int(drawn), ids.size - 1)])

    def candidates(self, logits: NDArray[np.float32], context: Sequence[int]) -> Candidates:
        """What `sample` draws from, after all filters, likeliest first."""
        sampling = self.sampling
        if not np.isfinite(logits.max()):
            raise ModelError("the model computes logits that are not finite numbers")
        logits = penalize(bias(logits, sampling.logit_bias), context, sampling)
        if self._is_greedy:
            return Candidates(np.array([logits.argmax()]), np.ones(1))
        ids = keep_top_k(logits, sampling.top_k)
        ids = keep_top_p(logits, ids, sampling.top_p)
        ids = keep_min_p(logits, ids, sampling.min_p)
        with np.errstate(over="ignore"):
            return Candidates(ids, softmax(logits[ids] / np.float64(sampling.temperature)))


def bias(logits: NDArray[np.float32], biases: Sequence[tuple[int, float]]) -> NDArray[np.float32]:
    """Logits plus `biases` (id, summand); `logits` itself where there are none."""
    if not biases:
        return logits
    biased = logits.copy()
    for token, summand in biases:
        biased[token] += np.float32(summand)
    return biased


def penalize(
    logits: NDArray[np.float32], context: Sequence[int], sampling: Sampling
) -> NDArray[np.float32]:
    """Logits with those of recently seen ids pushed down.

    `repeat_penalty` divides (CTRL, arXiv:1909.05858), `presence_penalty` is subtracted once,
    `frequency_penalty` as often as the id was seen. Returns `logits` itself when nothing changes.
    """
    penalty, last_n = sampling.repeat_penalty, sampling.repeat_last_n
    presence, frequency = sampling.presence_penalty, sampling.frequency_penalty
    recent = context if last_n == -1 else context[max(len(context) - last_n, 0) :]
    if (penalty == 1.0 and presence == 0.0 and frequency == 0.0) or not len(recent):
        return logits
    ids, counts = np.unique(np.asarray(recent, np.int64), return_counts=True)
    seen = logits[ids]
    penalized = logits.copy()
    repeated = np.where(seen <= 0, seen * penalty, seen / penalty)
    penalized[ids] = repeated - (presence + frequency * counts)
    return penalized


def keep_top_k(logits: NDArray[np.float32], top_k: int) -> NDArray[np.int64]:
    """Ids of the `top_k` largest logits, largest first, ties by id; all of them when 0 or less."""
    k = logits.size if top_k <= 0 else min(top_k, logits.size)
    ids = np.flatnonzero(logits >= _lower_bound(logits, k))
    order = np.argsort(-logits[ids], kind="stable")
    return ids[order[:k]]


def _lower_bound(logits: NDArray[np.float32], k: int) -> np.float32:
    """A value that at least `k` logits reach: the k-th largest of the chunks' maxima.

    One pass over the vocabulary, where a partition of all of it would take many. A chunk are
    every n-th logits: maxima of neighbouring chunks are then taken side by side.
    """
    n_chunk = logits.size // CHUNK
    if n_chunk < k:
        return np.float32(-np.inf)
    maxima = logits[: n_chunk * CHUNK].reshape(CHUNK, n_chunk).max(axis=0)
    return np.float32(np.partition(maxima, n_chunk - k)[n_chunk - k])


def keep_top_p(
    logits: NDArray[np.float32], ids: NDArray[np.int64], top_p: float
) -> NDArray[np.int64]:
    """Shortest prefix of `ids` (sorted by logit) that holds `top_p` of the probability.

    arXiv:1904.09751.
    """
    if top_p >= 1.0:
        return ids
    cumulative = np.cumsum(softmax(logits[ids].astype(np.float64)))
    return ids[: int(np.searchsorted(cumulative, top_p)) + 1]


def keep_min_p(
    logits: NDArray[np.float32], ids: NDArray[np.int64], min_p: float
) -> NDArray[np.int64]:
    """The `ids` at least `min_p` times as probable as the first (arXiv:2407.01082)."""
    if min_p <= 0.0:
        return ids
    threshold = logits[ids[0]] + np.log(min(min_p, 1.0))
    kept: NDArray[np.int64] = ids[logits[ids] >= threshold]
    return kept


def softmax(logits: NDArray[np.float64]) -> NDArray[np.float64]:
    """Probabilities of `logits`, computed in float64."""
    weights: NDArray[np.float64] = np.exp(logits - logits.max())
    weights /= weights.sum()
    return weights

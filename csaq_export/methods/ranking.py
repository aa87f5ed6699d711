"""Scores of single weights → the threshold above which they are kept.

Scores stay in the work dir and pass by one matrix at a time: a threshold is found by
bisection, counting at every step.
"""

from collections.abc import Callable, Mapping
from functools import partial

import torch
from torch import Tensor

# By name, a function that gives the scores of a matrix, ≥ 0, float32 [n_row, n_col].
Scores = Mapping[str, Callable[[], Tensor]]
Counts = dict[str, int]
NONE = float("inf")
# Scores of models up to this size are read once.
_HELD_WEIGHTS = 1 << 28
_TOP_PATTERN = 0x7F800000  # infinity


def held(scores: Scores, n_weight: int) -> Scores:
    """The same scores, in memory if there are few."""
    if n_weight > _HELD_WEIGHTS:
        return scores
    return {name: partial(_given, read()) for name, read in scores.items()}


def _given(values: Tensor) -> Tensor:
    return values


def count_above(scores: Scores, threshold: float) -> Counts:
    """Weights of each matrix whose score is at least `threshold`."""
    return {name: int((read() >= threshold).sum()) for name, read in scores.items()}


def lowest_threshold(fits: Callable[[float], bool]) -> float:
    """The lowest positive float32 for which `fits` holds; infinity if it never does.

    `fits` must hold for everything above a value for which it holds. Positive floats are
    ordered as their bit patterns are, so that 31 halvings find the exact one.
    """
    low, high = 0, _TOP_PATTERN
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if fits(as_float(middle)) else (middle, high)
    return as_float(high)


def threshold_for(scores: Scores, n_kept: int) -> float:
    """The lowest threshold that at most `n_kept` weights reach."""
    return lowest_threshold(lambda t: sum(count_above(scores, t).values()) <= n_kept)


def as_float(pattern: int) -> float:
    """The float32 with this bit pattern."""
    return float(torch.tensor(pattern, dtype=torch.int32).view(torch.float32))

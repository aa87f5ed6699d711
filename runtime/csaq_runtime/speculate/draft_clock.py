"""What a draft of k tokens costs, measured while decoding: seconds by length, medians."""

from collections import deque
from statistics import median_low

from csaq_runtime.speculate.step_clock import N_SAMPLE

FIRST_COST = {"ngram": 0.02, "head": 0.1, "planes": 0.6}
"""Cost of a drafted token in plain steps before it is measured (n-gram: of a whole draft)."""

DISTURBED = 3.0
"""A draft that takes so many times what is believed was interrupted: that is not its fault."""


class DraftClock:
    """Medians of the last drafts of each length.

    `per_draft`: a draft costs the same however long it is; else part of it grows with the length.
    """

    def __init__(self, name: str, n_most: int) -> None:
        self.per_draft = name == "ngram"
        self._first_cost, self._n_most = FIRST_COST[name], n_most
        self._samples: dict[int, deque[float]] = {}
        self._seconds: list[float] = []

    def observe(self, n_token: int, seconds: float, plain: float) -> None:
        """A draft of `n_token` tokens took `seconds`, a plain step takes `plain`."""
        n_token = 1 if self.per_draft else n_token
        believed = self.seconds(n_token, plain)
        if n_token not in self._samples:
            # Of two, the lower one counts: a first draft that seemed so dear would be the last.
            disturbed = seconds > DISTURBED * believed
            self._samples[n_token] = deque([believed] * disturbed, maxlen=N_SAMPLE)
        self._samples[n_token].append(seconds)
        self._seconds = self._interpolated()

    def seconds(self, n_token: int, plain: float) -> float:
        """Of a draft of `n_token` tokens ≥ 1; `plain`: of a step, for want of measurements."""
        n_token = 1 if self.per_draft else n_token
        return self._seconds[n_token] if self._seconds else self._first_cost * plain * n_token

    def _interpolated(self) -> list[float]:
        """By length from 0: straight lines between what was measured, beyond it in proportion."""
        costs, below = [0.0], 0
        for n_token in sorted(self._samples):
            end = max(median_low(self._samples[n_token]), costs[-1])
            slope, start = (end - costs[-1]) / (n_token - below), costs[-1]
            costs += [start + slope * step for step in range(1, n_token - below + 1)]
            below = n_token
        each = costs[-1] / below
        return costs + [each * n_token for n_token in range(below + 1, self._n_most + 1)]

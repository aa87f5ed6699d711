"""What a step of k tokens costs, measured while decoding: v(k) = seconds(k) / seconds(1)."""

from collections import deque
from statistics import median, median_low

N_SAMPLE = 9
STALE = 256
"""Steps after which a figure that was not measured again is no longer believed."""

PRIOR_SLOPE = 0.08
"""v(k + 1) − v(k) where nothing is known."""


class StepClock:
    """Medians of the last steps of each size.

    Attributes: `n_step` counts all steps; `plain`, seconds of a step of one token, 0 until it is
    known; `cost`, v(k) by k from 0 (0 there) to `n_most`, from the nearest sizes measured.
    """

    def __init__(self, n_most: int) -> None:
        self.n_step, self.plain = 0, 0.0
        self._n_most = n_most
        self._plain: deque[float] = deque(maxlen=N_SAMPLE)
        self._ratios: dict[int, deque[float]] = {}
        self._last = dict.fromkeys(range(1, n_most + 1), -STALE)
        self.cost = self._interpolated()

    def age(self, n_token: int) -> int:
        """Steps since one of `n_token` was measured."""
        return self.n_step - self._last[n_token]

    def observe(self, n_token: int, seconds: float) -> None:
        """A step of `n_token` tokens took `seconds`; the first of all must be of one token."""
        self.n_step += 1
        self._last[n_token] = self.n_step
        if n_token == 1:
            self._plain.append(seconds)
            self.plain = median(self._plain)
            return
        if n_token not in self._ratios:
            # What was believed so far counts as a sample: one disturbed step changes nothing.
            self._ratios[n_token] = deque([self.cost[n_token]], maxlen=N_SAMPLE)
        self._ratios[n_token].append(seconds / self.plain)
        self.cost = self._interpolated()

    def forget_stale(self) -> None:
        """Drop figures that may rest on disturbed steps and keep their size from being tried."""
        if stale := [n for n in self._ratios if self.age(n) > STALE]:
            for n_token in stale:
                del self._ratios[n_token]
            self.cost = self._interpolated()

    def _interpolated(self) -> list[float]:
        """v(0 … n_most): straight lines between what was measured, and on from the last."""
        costs, below, slope = [0.0, 1.0], 1, PRIOR_SLOPE
        for n_token in sorted(self._ratios):
            end, start = median_low(self._ratios[n_token]), costs[-1]
            slope = (end - start) / (n_token - below)
            costs += [start + slope * step for step in range(1, n_token - below + 1)]
            below = n_token
        slope = max(PRIOR_SLOPE, (costs[-1] - 1) / max(below - 1, 1))
        return costs + [costs[-1] + slope * step for step in range(1, self._n_most - below + 1)]

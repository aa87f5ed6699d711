"""How often drafted tokens stood, learnt while decoding and forgotten with time."""

from collections.abc import Sequence

N_BIN = 12
PRIOR_WEIGHT, MEMORY = 3.0, 0.97
"""Observations that the first guess counts for; weight of an observation one later."""


class Odds:
    """Share of hits per bin of a scale from 0 to 1."""

    def __init__(self, prior: Sequence[float]) -> None:
        self._hits = [PRIOR_WEIGHT * p for p in prior]
        self._tries = [PRIOR_WEIGHT] * len(prior)

    @classmethod
    def by_confidence(cls) -> "Odds":
        """A confidence is first taken at its word, a little lower."""
        return cls([0.9 * (index + 0.5) / N_BIN for index in range(N_BIN)])

    def of(self, index: int) -> float:
        """The chance of a hit in bin `index`; the last bin stands for all after it."""
        index = min(index, len(self._tries) - 1)
        return self._hits[index] / self._tries[index]

    def observe(self, index: int, hit: bool) -> None:
        """Count one try."""
        index = min(index, len(self._tries) - 1)
        self._hits[index] = self._hits[index] * MEMORY + hit
        self._tries[index] = self._tries[index] * MEMORY + 1


def confidence_bin(confidence: float) -> int:
    """The bin of a confidence from 0 to 1."""
    return min(int(confidence * N_BIN), N_BIN - 1)

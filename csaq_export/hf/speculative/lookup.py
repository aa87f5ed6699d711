"""Drafts by look-up: what followed the last few tokens where they stood in the context before."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from csaq_runtime.sample import Sampler
from csaq_runtime.speculate.drafter import Draft

# Tokens that must match, tried from the most; one alone is little evidence, yet costs nothing.
MATCHES = (4, 3, 2, 1)


class LookupDrafter:
    """Scans the context from its end; its cost is nothing beside a step in torch."""

    name, wants_hidden = "ngram", False

    def begin(self, sampler: Sampler) -> None:
        """A reply begins; nothing is drawn by chance."""

    def propose(self, context: Sequence[int], n: int, hidden: NDArray[np.float32] | None) -> Draft:
        """Up to `n` tokens after the latest, longest match; none where nothing matches."""
        ids = np.asarray(context, np.int64)
        for length in MATCHES:
            if len(ids) <= length:
                continue
            windows = np.lib.stride_tricks.sliding_window_view(ids[:-1], length)
            places = np.flatnonzero((windows == ids[-length:]).all(1))
            if len(places):
                start = int(places[-1]) + length
                return Draft(ids[start : start + n].tolist())
        return Draft()

"""Which tokens of a draft stand: logits of the model and a draft → the tokens that follow.

Tokens drafted without chance are compared with what the sampler draws, one draw per token as in
plain decoding: the reply is the very same, whatever the draft, sampled ones included. Tokens drawn
from a distribution go through rejection sampling (arXiv:2211.17192, arXiv:2302.01318), which keeps
the distribution of the reply and accepts more of them.
"""

from collections.abc import Collection, Sequence

import numpy as np
from numpy.typing import NDArray

from csaq_runtime.sample import Candidates, Sampler
from csaq_runtime.speculate.drafter import Draft


def verified(
    logits: NDArray[np.float32],
    draft: Draft,
    sampler: Sampler,
    context: Sequence[int],
    stops: Collection[int],
) -> list[int]:
    """The tokens that follow `context`: those of the draft that stand, and one more.

    logits: [n + 1, n_vocab] of the model after `context` and after each of the draft's n ids.
    Ends with the first token of `stops`, then without one more. Raises ModelError for logits
    that are not finite.
    """
    ids, tokens = list(context), []
    for index, row in enumerate(logits):
        guess = draft.ids[index] if index < len(draft.ids) else None
        if guess is None or draft.drawn_from is None:
            token = sampler.sample(row, ids)
        else:
            token = _judged(sampler, sampler.candidates(row, ids), guess, draft.drawn_from[index])
        tokens.append(token)
        if token != guess or token in stops:
            break
        ids.append(token)
    return tokens


def _judged(sampler: Sampler, wanted: Candidates, guess: int, drawn_from: Candidates) -> int:
    """`guess` with probability min(1, p / q), else a draw from what q leaves of p."""
    p, q = wanted.probability(guess), drawn_from.probability(guess)
    if sampler.uniform() * q < p:
        return guess
    return sampler.draw(_residual(wanted, drawn_from))


def _residual(wanted: Candidates, drawn_from: Candidates) -> Candidates:
    """max(0, p − q), normalized; p itself where rounding leaves nothing of it."""
    q = np.array([drawn_from.probability(int(id)) for id in wanted.ids])
    left = np.maximum(wanted.probabilities - q, 0)
    total = left.sum()
    return Candidates(wanted.ids, left / total) if total > 0 else wanted

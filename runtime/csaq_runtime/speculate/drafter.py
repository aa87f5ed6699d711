"""What drafters have in common: a few tokens that may come next, and what they were drawn from."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from csaq_runtime.sample import Candidates, Sampler


@dataclass(frozen=True)
class Draft:
    """Tokens that may follow, in order; as many or fewer than were asked for, also none.

    `drawn_from`: for each of `ids` the distribution it was drawn from with the sampler given to
    `begin`. None where no chance was involved (a look-up, the likeliest token).
    `confidence`: how sure the drafter is of each id if those before it are right, 0 … 1 on a
    scale of its own; what a value is worth is learnt while decoding. Empty: cannot say.
    """

    ids: Sequence[int] = ()
    drawn_from: Sequence[Candidates] | None = None
    confidence: Sequence[float] = ()

    def first(self, n: int) -> "Draft":
        """The first `n` tokens of this draft."""
        drawn_from = None if self.drawn_from is None else self.drawn_from[:n]
        return Draft(self.ids[:n], drawn_from, self.confidence[:n])


NOTHING = Draft()
"""No draft."""


class Drafter(Protocol):
    """Guesses the next tokens of a reply.

    `name` is what `--spec` calls it. Where `wants_hidden` is False, `hidden` is always None.
    """

    name: str
    wants_hidden: bool

    def begin(self, sampler: Sampler) -> None:
        """A reply begins, to any context. Draws by chance must use `sampler`, and nothing else.

        It samples as the reply does, but its generator is independent of the reply's: only then
        does rejection leave the reply's distribution as it is.
        """

    def propose(self, context: Sequence[int], n: int, hidden: NDArray[np.float32] | None) -> Draft:
        """Up to `n` tokens that may follow `context`, all ids so far, prompt included.

        hidden: the model's state after the final norm that `context[-1]` was drawn from, float32
        [n_embd]. `context[-1]` itself has not been through the model yet.
        """
        ...
